//! `wayleave doctor`: all that is wrong, in one place, with what to do about it.

use anyhow::bail;
use hyper::Method;
use serde_json::Value;

use super::Global;
use crate::client::Client;
use crate::output::{self, Format, show};

/// Prints what is found. It ends with 1 where something does not work.
pub async fn run(global: &Global, client: &Client) -> anyhow::Result<()> {
    let answer = client.ask(Method::GET, "/api/v2/doctor", None).await?;
    let all = answer.as_array().map(Vec::as_slice).unwrap_or_default();
    if global.output != Format::Table {
        output::list(global.output, &answer, &[])?;
    } else if all.is_empty() {
        output::line("nothing is wrong");
    } else {
        all.iter().flat_map(lines).for_each(|text| output::line(&text));
    }
    let errors = all.iter().filter(|found| found["severity"] == "error").count();
    match errors {
        0 => Ok(()),
        1 => bail!("1 thing does not work"),
        many => bail!("{many} things do not work"),
    }
}

fn lines(found: &Value) -> [String; 2] {
    let [severity, about, what, todo] = ["severity", "about", "what", "todo"].map(|field| show(&found[field]));
    [format!("{severity:<8} {about}: {what}"), format!("         -> {todo}")]
}
