//! Query strings, read strictly: an unknown or bad parameter is a mistake worth telling.

use axum::{
    extract::{FromRequestParts, Query as AxumQuery},
    http::request::Parts,
};
use serde::{Deserialize, de::DeserializeOwned};

use super::ApiError;

/// Refuses with 400 what `T` does not know; `T` denies unknown fields.
pub struct Query<T>(pub T);

/// For paths that take no parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoParameters {}

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parse(&parts.uri)
    }
}

fn parse<T: DeserializeOwned>(uri: &axum::http::Uri) -> Result<Query<T>, ApiError> {
    match AxumQuery::<T>::try_from_uri(uri) {
        Ok(AxumQuery(query)) => Ok(Query(query)),
        Err(rejection) => {
            let text = std::error::Error::source(&rejection)
                .map_or_else(|| rejection.to_string(), ToString::to_string);
            Err(ApiError::bad_request(format!("query string: {text}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use ringmaster_shared::api::data::Consistency;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        #[serde(default)]
        consistency: Consistency,
        limit: Option<usize>,
    }

    #[test]
    fn unknown_and_bad_parameters_are_refused() {
        let ask = |text: &str| parse::<Example>(&text.parse().expect("a uri"));
        let good = ask("/x?consistency=all&limit=5").unwrap_or_else(|_| panic!("valid"));
        assert_eq!(
            (good.0.consistency, good.0.limit),
            (Consistency::All, Some(5))
        );
        for bad in [
            "/x?limit=-1",
            "/x?consistency=two",
            "/x?limt=5",
            "/x?limit=1&limit=2",
        ] {
            assert!(ask(bad).is_err(), "{bad}");
        }
        let none = |text: &str| parse::<NoParameters>(&text.parse().expect("a uri"));
        assert!(none("/x").is_ok() && none("/x?").is_ok() && none("/x?a=1").is_err());
    }
}
