//! `kolosal ps` and `kolosal stop`: questions to a running server.

use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::args::{ClientArgs, StopArgs};
use super::assembly;
use super::failure::{Failure, Outcome};
use super::{App, wait_for};
use crate::config::Config;
use crate::hub::{client_builder, describe};

/// Longest wait for an answer.
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

pub(super) fn ps(app: &App, args: &ClientArgs) -> Outcome {
    let answer = call(app, args, Method::GET, "/engines")?;
    if app.out.json {
        return app.out.json_pretty(&answer);
    }
    let heading = ["ENGINE", "STATUS", "MODEL"].map(str::to_owned).to_vec();
    let engines = answer.get("engines").and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |engine: &Value, key: &str| {
        engine.get(key).and_then(Value::as_str).unwrap_or("-").to_owned()
    };
    let rows = engines
        .iter()
        .map(|engine| ["engine_id", "status", "model_path"].map(|key| text(engine, key)).to_vec());
    app.out.table(&std::iter::once(heading).chain(rows).collect::<Vec<_>>())
}

pub(super) fn stop(app: &App, args: &StopArgs) -> Outcome {
    let path = format!("/engines/{}", percent_encode(&args.engine));
    let answer = call(app, &args.client, Method::DELETE, &path)?;
    if app.out.json {
        return app.out.json_pretty(&answer);
    }
    app.out.note(format!("removed {}", args.engine));
    Ok(())
}

/// Sends a request and returns the JSON of a 2xx answer.
pub(super) fn call(app: &App, args: &ClientArgs, method: Method, path: &str) -> Outcome<Value> {
    let config = app.configure_quietly()?;
    let url = format!("{}{path}", base_url(args, &config));
    let key = key(args, &config)?;
    wait_for(async {
        let client = client_builder().timeout(TIMEOUT).no_proxy().build();
        let mut request = client.map_err(Failure::failed)?.request(method, &url);
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        let unreachable = |error: reqwest::Error| {
            Failure::Unavailable(format!("no server answers at {url}: {}", describe(&error)))
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let body = response.text().await.map_err(unreachable)?;
        answer(status, &body)
    })
}

fn answer(status: StatusCode, body: &str) -> Outcome<Value> {
    let json: Option<Value> = serde_json::from_str(body).ok();
    if status.is_success() {
        return json
            .ok_or_else(|| Failure::failed("the answer is not JSON; is this a kolosal server?"));
    }
    let message =
        json.as_ref().and_then(|json| json.pointer("/error/message")).and_then(Value::as_str);
    Err(Failure::failed(format!("{status}: {}", message.unwrap_or("no message"))))
}

/// The key to present: the one that was given, or one of the configuration's.
pub(super) fn key(args: &ClientArgs, config: &Config) -> Outcome<Option<String>> {
    if args.api_key.is_some() {
        return Ok(args.api_key.clone());
    }
    // One for managing engines may do all.
    let auth = &config.auth;
    let mut keys = assembly::keys(&auth.admin_keys, auth.admin_keys_file.as_deref())?;
    keys.extend(assembly::keys(&auth.api_keys, auth.api_keys_file.as_deref())?);
    Ok(keys.first().map(|key| key.expose().to_owned()))
}

/// Where the server is, without a slash at the end.
pub(super) fn base_url(args: &ClientArgs, config: &Config) -> String {
    if let Some(url) = &args.url {
        return url.trim_end_matches('/').trim_end_matches("/v1").to_owned();
    }
    let host = match config.server.host.as_str() {
        // Addresses that mean "all" when bound mean nothing when called.
        "0.0.0.0" => "127.0.0.1",
        "::" => "::1",
        host => host,
    };
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    format!("http://{host}:{}", config.server.port)
}

pub(super) fn percent_encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_found_where_it_is_configured() {
        let mut config = Config::default();
        let args = |url: Option<&str>| ClientArgs { url: url.map(str::to_owned), api_key: None };
        assert_eq!(base_url(&args(None), &config), "http://127.0.0.1:8080");
        "::".clone_into(&mut config.server.host);
        assert_eq!(base_url(&args(None), &config), "http://[::1]:8080");
        assert_eq!(base_url(&args(Some("http://a:1/v1/")), &config), "http://a:1");
    }

    #[test]
    fn names_survive_in_paths() {
        assert_eq!(percent_encode("smollm2:135m/x"), "smollm2%3A135m%2Fx");
    }
}
