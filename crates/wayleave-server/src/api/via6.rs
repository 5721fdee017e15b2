//! 4via6 sites, and hosts that are named at them.

use std::net::Ipv4Addr;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wayleave_model::{GivenName, Prefix, via6};
use wayleave_netmap::host_name;
use wayleave_tailnet::{Command, Outcome, Site, SiteCommand, SiteHost, Sites};

use super::ApiState;
use super::error::{ApiError, Asked, Body, ErrorBody};

pub(super) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(list, add))
        .routes(routes!(rename, remove))
        .routes(routes!(list_hosts, add_host, remove_host))
        .routes(routes!(prefix))
}

/// A site.
#[derive(Debug, Serialize, ToSchema)]
struct SiteBody {
    /// Its number in 4via6 prefixes.
    id: u32,
    name: String,
    created_at: String,
    /// How many hosts are named at it.
    hosts: usize,
}

fn body(site: &Site, sites: &Sites) -> SiteBody {
    SiteBody {
        id: site.id,
        name: site.name.to_string(),
        created_at: site.created_at.to_string(),
        hosts: sites.hosts().filter(|host| host.site == site.id).count(),
    }
}

/// A host that is named at a site.
#[derive(Debug, Serialize, ToSchema)]
struct HostBody {
    name: String,
    site: String,
    /// At the site.
    address: String,
    /// From elsewhere.
    via6: String,
    /// The name by which clients know it.
    dns_name: String,
}

/// A prefix and what it stands for.
#[derive(Debug, Serialize, ToSchema)]
struct Via6Body {
    /// As clients advertise it.
    prefix: String,
    /// As people read it.
    shown: String,
    /// The number of the site.
    site: u32,
    /// Its name, if it has one.
    site_name: Option<String>,
    /// The prefix there.
    part: String,
}

impl ApiState {
    /// A prefix as people type it, also one at a site.
    pub(super) fn prefix(&self, text: &str) -> Result<Prefix, ApiError> {
        self.app.control.snapshot().sites.prefix(text).map_err(ApiError::bad)
    }

    /// A prefix or an address as people type it, also at a site; an address is the prefix that holds it alone.
    pub(super) fn place(&self, text: &str) -> Result<Prefix, ApiError> {
        self.app.control.snapshot().sites.place(text).map_err(ApiError::bad)
    }

    /// A prefix as people read it.
    pub(super) fn shown(&self, prefix: &Prefix) -> String {
        self.app.control.snapshot().sites.show(prefix)
    }

    fn site(&self, text: &str) -> Result<u32, ApiError> {
        let snapshot = self.app.control.snapshot();
        snapshot.sites.named(text).map(|site| site.id).ok_or_else(|| {
            ApiError::none(format!(
                "there is no site `{text}`; `wayleave via6 sites list` shows all, `wayleave via6 sites add {text}` makes it"
            ))
        })
    }

    fn host_body(&self, host: &SiteHost) -> HostBody {
        let sites = &self.app.control.snapshot().sites;
        let site = sites.site(host.site);
        HostBody {
            name: host.name.to_string(),
            site: site.map_or_else(|| host.site.to_string(), |site| site.name.to_string()),
            address: host.address.to_string(),
            via6: host.via6().network().to_string(),
            dns_name: site
                .map_or_else(String::new, |site| host_name(&host.name, &site.name, &self.app.options.dns.base_domain)),
        }
    }

    async fn sites(&self, command: SiteCommand) -> Result<u32, ApiError> {
        let Outcome::Site(site) = self.app.control.command(Command::Sites(command)).await? else {
            let text = "the site changed, and its number is not known";
            return Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, text));
        };
        Ok(site)
    }
}

fn name(text: &str) -> Result<GivenName, ApiError> {
    text.parse().map_err(ApiError::bad)
}

/// All sites, by number.
#[utoipa::path(get, path = "/api/v2/via6/sites", tag = "via6", responses((status = 200, body = Vec<SiteBody>)))]
async fn list(State(state): State<ApiState>) -> Json<Vec<SiteBody>> {
    let sites = &state.app.control.snapshot().sites;
    Json(sites.iter().map(|site| body(site, sites)).collect())
}

/// A site to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewSite {
    /// A DNS label that is no number, unique.
    name: String,
    /// 0 to 65535; absent: the lowest from 1 that is free.
    id: Option<u32>,
}

/// Makes a site.
#[utoipa::path(post, path = "/api/v2/via6/sites", tag = "via6", request_body = NewSite,
    responses((status = 201, body = SiteBody), (status = 400, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn add(
    State(state): State<ApiState>,
    Body(NewSite { name: text, id }): Body<NewSite>,
) -> Result<(StatusCode, Json<SiteBody>), ApiError> {
    let id = state.sites(SiteCommand::Add { name: name(&text)?, id }).await?;
    let sites = &state.app.control.snapshot().sites;
    let site = sites.site(id).ok_or_else(|| ApiError::none("the site was removed meanwhile"))?;
    Ok((StatusCode::CREATED, Json(body(site, sites))))
}

/// What a site is to be called.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewName {
    /// The new name.
    name: String,
}

/// Gives a site another name.
#[utoipa::path(patch, path = "/api/v2/via6/sites/{site}", tag = "via6", request_body = NewName,
    params(("site" = String, Path, description = "name or number")),
    responses((status = 204), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn rename(
    State(state): State<ApiState>,
    Path(site): Path<String>,
    Body(NewName { name: text }): Body<NewName>,
) -> Result<StatusCode, ApiError> {
    state.sites(SiteCommand::Rename { site: state.site(&site)?, name: name(&text)? }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes a site that has no named hosts and that the policy does not name.
#[utoipa::path(delete, path = "/api/v2/via6/sites/{site}", tag = "via6",
    params(("site" = String, Path, description = "name or number")),
    responses((status = 204), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn remove(State(state): State<ApiState>, Path(site): Path<String>) -> Result<StatusCode, ApiError> {
    state.sites(SiteCommand::Remove { site: state.site(&site)? }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// All named hosts, by site and name.
#[utoipa::path(get, path = "/api/v2/via6/hosts", tag = "via6", responses((status = 200, body = Vec<HostBody>)))]
async fn list_hosts(State(state): State<ApiState>) -> Json<Vec<HostBody>> {
    Json(state.app.control.snapshot().sites.hosts().map(|host| state.host_body(host)).collect())
}

/// A host to be named.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewHost {
    /// A DNS label, unique at the site.
    name: String,
    /// The site: name or number.
    site: String,
    /// Its IPv4 address there.
    address: String,
}

/// Names a host, or gives the name to another address.
#[utoipa::path(post, path = "/api/v2/via6/hosts", tag = "via6", request_body = NewHost,
    responses((status = 201, body = HostBody), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn add_host(
    State(state): State<ApiState>,
    Body(NewHost { name: text, site, address }): Body<NewHost>,
) -> Result<(StatusCode, Json<HostBody>), ApiError> {
    let (name, site) = (name(&text)?, state.site(&site)?);
    let address: Ipv4Addr = address
        .parse()
        .map_err(|_| ApiError::bad(format!("`{address}` is no IPv4 address: what is at a 4via6 site has one")))?;
    state.sites(SiteCommand::AddHost { site, name: name.clone(), address }).await?;
    let sites = &state.app.control.snapshot().sites;
    let made = sites.hosts().find(|host| host.site == site && host.name == name);
    let made = made.ok_or_else(|| ApiError::none("the host was removed meanwhile"))?;
    Ok((StatusCode::CREATED, Json(state.host_body(made))))
}

/// Which host.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct HostQuery {
    /// Its name.
    name: String,
    /// Its site: name or number.
    site: String,
}

/// Takes a host's name away.
#[utoipa::path(delete, path = "/api/v2/via6/hosts", tag = "via6", params(HostQuery),
    responses((status = 204), (status = 404, body = ErrorBody)))]
async fn remove_host(
    State(state): State<ApiState>,
    Asked(HostQuery { name: text, site }): Asked<HostQuery>,
) -> Result<StatusCode, ApiError> {
    state.sites(SiteCommand::RemoveHost { site: state.site(&site)?, name: name(&text)? }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Which prefix.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct PrefixQuery {
    /// `192.168.1.0/24 via berlin`, or as clients advertise it; or an address, written in either way.
    prefix: String,
}

/// What a 4via6 prefix stands for, and how it is advertised.
#[utoipa::path(get, path = "/api/v2/via6/prefix", tag = "via6", params(PrefixQuery),
    responses((status = 200, body = Via6Body), (status = 400, body = ErrorBody)))]
async fn prefix(
    State(state): State<ApiState>,
    Asked(PrefixQuery { prefix: text }): Asked<PrefixQuery>,
) -> Result<Json<Via6Body>, ApiError> {
    let prefix = state.place(&text)?;
    let not_via6 =
        || ApiError::bad(format!("{prefix} is no 4via6 prefix: those are in fd7a:115c:a1e0:b1a::/64, /96 or longer"));
    let (site, part) = via6::decode(&prefix).ok_or_else(not_via6)?;
    if let Some(reason) = prefix.invalid() {
        return Err(ApiError::bad(format!("{text} can't be used: it {reason}")));
    }
    let sites = &state.app.control.snapshot().sites;
    Ok(Json(Via6Body {
        prefix: prefix.to_string(),
        shown: if text.contains('/') { sites.show(&prefix) } else { sites.show_address(prefix.network()) },
        site,
        site_name: sites.site(site).map(|site| site.name.to_string()),
        part: part.to_string(),
    }))
}
