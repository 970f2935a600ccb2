//! The `OpenAPI` document, generated from the types and the notes beside the handlers.

use axum::Json;
use ringmaster_shared::{api::data::Consistency, error::ErrorBody};
use utoipa::{
    Modify, OpenApi,
    openapi::{Content, Ref, ResponseBuilder},
};

use super::{
    admin, data, events, keys, membership,
    query::{NoParameters, Query},
    ring, status,
};

#[derive(OpenApi)]
#[openapi(
    info(title = "ringd", description = "One node of a leaderless, replicated key-value cluster"),
    paths(
        status::healthz, status::readyz, status::metrics, status::status, status::cluster,
        membership::members, membership::gossip_status, membership::rumors, membership::join,
        membership::leave, membership::observations,
        ring::ring, ring::locate, ring::plan, ring::apply,
        data::read, data::write, data::delete, data::list, data::replicas,
        data::batch::get, data::batch::put,
        events::events,
        admin::drain, admin::resume, admin::restart, admin::standby, admin::start, admin::adopt,
        admin::clear_gossip, admin::repair,
        keys::list, keys::change,
    ),
    components(schemas(ErrorBody, Consistency)),
    modifiers(&ErrorsEverywhere)
)]
struct Document;

/// Every path can answer with the one error format.
struct ErrorsEverywhere;

impl Modify for ErrorsEverywhere {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let content = Content::new(Some(Ref::from_schema_name("ErrorBody")));
        let error = ResponseBuilder::new()
            .description("Any error")
            .content("application/json", content)
            .build();
        for item in document.paths.paths.values_mut() {
            let operations = [
                &mut item.get,
                &mut item.put,
                &mut item.post,
                &mut item.delete,
            ];
            for operation in operations.into_iter().flatten() {
                operation
                    .responses
                    .responses
                    .insert("default".to_owned(), error.clone().into());
            }
        }
    }
}

/// `GET /api/v1/openapi.json`.
pub async fn document(_: Query<NoParameters>) -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_lead_somewhere_and_errors_are_described() {
        let document = serde_json::to_value(Document::openapi()).expect("JSON");
        let text = document.to_string();
        let schemas = document["components"]["schemas"]
            .as_object()
            .expect("schemas");
        for part in text.split("#/components/schemas/").skip(1) {
            let name = part.split('"').next().unwrap_or_default();
            assert!(schemas.contains_key(name), "{name} is not described");
        }
        let paths = document["paths"].as_object().expect("paths");
        assert_eq!(
            paths["/api/v1/data/{key}"]
                .as_object()
                .map(serde_json::Map::len),
            Some(3)
        );
        for (path, item) in paths {
            for operation in item.as_object().expect("operations").values() {
                let error = &operation["responses"]["default"];
                assert!(error.is_object(), "{path} describes no error");
            }
        }
    }
}
