//! From a translation to the rows of an empty Wayleave.

use wayleave_model::{Timestamp, User, UserId, UserRole};

use super::installation;

/// A point in time as the model counts: milliseconds, cut off, not rounded.
fn time(time: jiff::Timestamp) -> Timestamp {
    Timestamp::from_millis(time.as_millisecond())
}

/// A user. Where the source gave no name, the e-mail address or the identity stands in for it, as it is shown there.
pub(super) fn user(user: &installation::User, now: Timestamp) -> User {
    let filled = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let name = filled(&user.name).or_else(|| filled(&user.email)).or_else(|| user.provider_identifier.clone());
    User {
        id: UserId::new(user.id),
        name: name.unwrap_or_else(|| user.id.to_string()),
        display_name: user.display_name.clone(),
        email: filled(&user.email),
        identity: user.provider_identifier.clone(),
        picture: user.profile_pic_url.clone(),
        // Roles are a matter of policies, and those of the source know none.
        role: UserRole::Member,
        created_at: user.created_at.map_or(now, time),
    }
}
