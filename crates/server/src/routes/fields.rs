//! Bodies that are fields of one map in a list of the configuration: which they are and what they may be the engine knows, here they are only described and
//! handed on.

use crate::problem::Problem;
use flyball_engine::Error;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};

/// Describes a body of fields, each with what it is.
pub(super) fn schema(fields: &[(&str, &str)]) -> RefOr<Schema> {
    let object = ObjectBuilder::new().schema_type(Type::Object);
    let field = |object: ObjectBuilder, (name, about): &(&str, &str)| {
        let field = ObjectBuilder::new()
            .schema_type(SchemaType::AnyValue)
            .description(Some(*about));
        object.property(*name, field)
    };
    fields.iter().fold(object, field).into()
}

/// Says of a refused field where it is in the body rather than in the configuration, where `list` is the pointer to the list. `others` are fields that are
/// keys of their own there, with their pointers.
pub(super) fn refused(error: Error, list: &str, others: &[(&str, &str)]) -> Problem {
    Problem::from(error).moved(|pointer| {
        if let Some((field, _)) = others.iter().find(|(_, key)| *key == pointer) {
            return format!("/{field}");
        }
        let item = pointer
            .strip_prefix(list)
            .map(|rest| rest.trim_start_matches('/'));
        match item.map(|item| item.split_once('/')) {
            None => pointer.to_owned(),
            Some(None) => String::new(),
            Some(Some((_, field))) => format!("/{field}"),
        }
    })
}
