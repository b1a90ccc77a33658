//! The event categories of `fullscript-api.md` §2: one row each, and room for those the vendor adds later.

use std::fmt;

use super::IdError;

/// One list endpoint, `GET /api/events/<category>`. The known ones are in [`KNOWN_CATEGORIES`]; any other name is
/// polled too, because Fullscript adds categories before this program hears of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Category(String);

/// What the contract says of a category (`fullscript-api.md` §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownCategory {
    /// The path segment.
    pub name: &'static str,
    /// The OAuth scope that a 403 most likely lacks; `None` where the contract states none.
    pub scope: Option<&'static str>,
    /// Offered by the US servers only.
    pub us_only: bool,
    /// The event types documented for it; others pass through.
    pub event_types: &'static [&'static str],
}

/// The table of the contract: a category is one row.
pub const KNOWN_CATEGORIES: &[KnownCategory] = &[
    KnownCategory {
        name: "patients",
        scope: Some("patients:read"),
        us_only: false,
        event_types: &["patient.created", "patient.updated", "patient.emancipated"],
    },
    KnownCategory {
        name: "treatment_plans",
        scope: Some("patients:treatment_plan_history"),
        us_only: false,
        event_types: &[
            "treatment_plan.created",
            "treatment_plan.updated",
            "treatment_plan.recommendation.updated",
        ],
    },
    KnownCategory {
        name: "orders",
        scope: Some("patients:order_history"),
        us_only: false,
        event_types: &["order.placed"],
    },
    KnownCategory {
        name: "lab_orders",
        scope: Some("patients:order_history"),
        us_only: true,
        event_types: &["lab_order.updated"],
    },
    KnownCategory {
        name: "products",
        scope: Some("catalog:read"),
        us_only: false,
        event_types: &[
            "product.created",
            "product.updated",
            "product.description.updated",
        ],
    },
    KnownCategory {
        name: "clinic_keys",
        scope: None,
        us_only: false,
        event_types: &["clinic_key.activated", "clinic_key.revoked"],
    },
];

impl Category {
    /// Takes one URL path segment: letters, digits, `_` and `-`.
    pub fn new(name: impl Into<String>) -> Result<Self, IdError> {
        let name = name.into();
        if name.is_empty() {
            Err(IdError::Empty)
        } else if name.len() > 64 {
            Err(IdError::TooLong(name.len()))
        } else if !name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
        {
            Err(IdError::ControlCharacter)
        } else {
            Ok(Self(name))
        }
    }

    /// The path segment.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The contract's row for it, if it has one.
    pub fn known(&self) -> Option<&'static KnownCategory> {
        KNOWN_CATEGORIES.iter().find(|row| row.name == self.0)
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
