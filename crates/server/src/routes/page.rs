//! Lists, a page at a time.

use super::App;
use crate::problem::Problem;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Items of a page unless the client says otherwise.
const DEFAULT_LIMIT: usize = 100;

/// Which page of a list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// Most items to answer, 1 to 1,000; 100 unless set.
    pub(crate) limit: Option<usize>,
    /// `next_cursor` of the page before.
    pub(crate) cursor: Option<String>,
}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    /// The items.
    pub(crate) items: Vec<T>,
    /// What to send as `cursor` for the next page; null when there is none.
    pub(crate) next_cursor: Option<String>,
}

impl PageQuery {
    /// The limit, in its range.
    pub(crate) fn limit(&self, app: &App) -> Result<usize, Problem> {
        match self.limit {
            None => Ok(DEFAULT_LIMIT.min(app.page)),
            Some(limit) if (1..=app.page).contains(&limit) => Ok(limit),
            Some(limit) => Err(Problem::invalid("the limit is out of range").at(
                "?limit",
                format!("found {limit}, expected 1 to {}", app.page),
            )),
        }
    }

    /// The cursor, where it is a number.
    pub(crate) fn number(&self) -> Result<Option<u64>, Problem> {
        let Some(cursor) = &self.cursor else {
            return Ok(None);
        };
        cursor.parse().map(Some).map_err(|_| {
            Problem::invalid("this is no cursor of this list")
                .at("?cursor", "expected next_cursor of the page before")
        })
    }

    /// A page of a list that is at hand; the cursor is how many items came before.
    pub(crate) fn cut<T>(&self, app: &App, mut items: Vec<T>) -> Result<Page<T>, Problem> {
        let limit = self.limit(app)?;
        let before = usize::try_from(self.number()?.unwrap_or(0)).unwrap_or(usize::MAX);
        let end = before.saturating_add(limit);
        let next_cursor = (end < items.len()).then(|| end.to_string());
        items.truncate(end);
        items.drain(..before.min(items.len()));
        Ok(Page { items, next_cursor })
    }

    /// A page of a list of numbered items: `after` answers so many that come after a number. One more than the page holds is asked
    /// for, to know whether there is a next one.
    pub(crate) fn after<T>(
        &self,
        app: &App,
        after: impl FnOnce(Option<u64>, usize) -> Vec<T>,
        number: impl Fn(&T) -> u64,
    ) -> Result<Page<T>, Problem> {
        let limit = self.limit(app)?;
        let mut items = after(self.number()?, limit + 1);
        let more = items.len() > limit;
        items.truncate(limit);
        let next_cursor = items
            .last()
            .filter(|_| more)
            .map(|last| number(last).to_string());
        Ok(Page { items, next_cursor })
    }
}
