//! The options of traces.

use std::str::FromStr;

use clap::Args;
use url::Url;

use crate::traces::TraceSettings;

#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// URL of a collector of OpenTelemetry, which gets the traces of requests over OTLP/HTTP at
    /// URL/v1/traces [default: OTEL_EXPORTER_OTLP_ENDPOINT]
    #[arg(
        long,
        env = "LOCKSTOCK_OTLP_ENDPOINT",
        value_name = "URL",
        help_heading = "Traces"
    )]
    otlp_endpoint: Option<Endpoint>,

    /// Share of the traces that are sent, from 0 to 1. A request with a traceparent is part of the
    /// trace of its client, which decides [default: OTEL_TRACES_SAMPLER, or 1]
    #[arg(long, env = "LOCKSTOCK_OTLP_SAMPLE", value_name = "RATIO", value_parser = parse_share, help_heading = "Traces")]
    otlp_sample: Option<f64>,
}

impl TraceArgs {
    pub(crate) fn settings(&self) -> TraceSettings {
        TraceSettings {
            endpoint: self.otlp_endpoint.as_ref().map(|url| url.0.to_string()),
            sample: self.otlp_sample,
        }
    }
}

/// The URL of a collector.
#[derive(Debug, Clone)]
struct Endpoint(Url);

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https") && url.has_host() && url.query().is_none()
        });
        let url = url.ok_or("expected the URL of a collector, like http://127.0.0.1:4318")?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                "credentials do not belong into this URL: put them into the variable \
                 OTEL_EXPORTER_OTLP_HEADERS, like Authorization=Basic%20…"
                    .to_owned(),
            );
        }
        Ok(Self(url))
    }
}

fn parse_share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok();
    share
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| "expected a number from 0 to 1, like 0.1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_url_of_http_without_credentials() {
        for text in ["http://127.0.0.1:4318", "https://collector.example/otlp/"] {
            assert!(text.parse::<Endpoint>().is_ok(), "{text}");
        }
        for (text, part) in [
            ("127.0.0.1:4318", "like http://"),
            ("grpc://collector:4317", "like http://"),
            ("http://collector/?key=secret", "like http://"),
            (
                "https://user:secret@collector",
                "OTEL_EXPORTER_OTLP_HEADERS",
            ),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err();
            assert!(error.contains(part) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_share_is_a_number_from_0_to_1() {
        assert_eq!(parse_share("0.25"), Ok(0.25));
        for text in ["-0.1", "1.5", "NaN", "half", ""] {
            assert!(parse_share(text).is_err(), "{text}");
        }
    }
}
