//! What a registry lists, page by page: tags; and what is deleted from it.

use std::collections::{BTreeSet, HashSet};

use reqwest::header::{CONTENT_TYPE, HeaderMap, LINK};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::answer::{excerpt, protocol};
use super::client::{OciRegistry, manifest_object, scope};
use super::error::RegistryError;
use super::reference::{Reference, is_tag};
use super::transport::Call;
use crate::awaited::Answer;

/// So many tags, or referrers, are asked for at once.
const PAGE: u32 = 1000;
/// A list is read up to so many of them, and so many pages.
const ENTRIES_MAX: usize = 1_000_000;
const PAGES_MAX: usize = 10_000;

#[derive(Deserialize)]
struct Tags {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

impl OciRegistry {
    pub(super) fn list_tags(&self, name: &Reference) -> Result<Vec<String>, RegistryError> {
        let path = format!("{}/tags/list?n={PAGE}", name.repository());
        let object = format!("the tags of {}/{}", name.registry(), name.repository());
        let call = Call {
            scopes: vec![scope(name.repository(), "pull")],
            ..self.transport.call(name, &path, "list", object)?
        };
        let listed = self.pages(call.clone(), |page: Tags| page.tags.unwrap_or_default())?;
        // Foreign words: what is no tag cannot be asked for either. Not every registry sorts.
        let tags: BTreeSet<_> = listed.iter().filter(|tag| is_tag(tag)).cloned().collect();
        match listed.first() {
            Some(first) if tags.is_empty() => {
                let (count, first) = (listed.len(), excerpt(first));
                let reason = format!("none of the {count} tags that it lists is one, the first is `{first}`");
                Err(protocol(&call, &reason))
            }
            _ => Ok(tags.into_iter().collect()),
        }
    }

    pub(super) fn delete_manifest(&self, reference: &Reference) -> Result<(), RegistryError> {
        let path = format!("{}/manifests/{}", reference.repository(), reference.manifest_selector());
        let call = Call {
            method: Method::DELETE,
            scopes: vec![scope(reference.repository(), "pull,delete")],
            ..self.transport.call(reference, &path, "delete", manifest_object(reference))?
        };
        self.transport.repeat(|| {
            let response = self.transport.send(&call)?;
            match response.status() {
                status if status.is_success() => Ok(()),
                StatusCode::BAD_REQUEST | StatusCode::METHOD_NOT_ALLOWED => {
                    Err(self.cannot_delete(&call, reference, response))
                }
                _ => Err(self.transport.refusal(&call, response)),
            }
        })
    }

    /// A registry that deletes nothing, or only by digest.
    fn cannot_delete(&self, call: &Call<'_>, reference: &Reference, response: Answer) -> RegistryError {
        match self.transport.refusal(call, response) {
            RegistryError::Refused { registry, operation, object, status, retry_after, detail } => {
                let why = match reference.digest() {
                    None => "it may not delete tags alone; the digest deletes the image with all its tags",
                    Some(_) => "it may not allow deletion at all",
                };
                let detail = if detail.is_empty() { why.to_owned() } else { format!("{detail}; {why}") };
                RegistryError::Refused { registry, operation, object, status, retry_after, detail }
            }
            other => other,
        }
    }

    /// All entries of a list that comes in pages.
    pub(super) fn pages<P: DeserializeOwned, T>(
        &self,
        mut call: Call<'_>,
        entries: impl Fn(P) -> Vec<T>,
    ) -> Result<Vec<T>, RegistryError> {
        let mut all = Vec::new();
        let mut seen = HashSet::new();
        for _ in 0..PAGES_MAX {
            if !seen.insert(call.url.clone()) {
                return Err(protocol(&call, "its list leads back to where it was"));
            }
            let (page, next) = self.transport.repeat(|| self.page::<P>(&call))?;
            all.extend(entries(page));
            if all.len() > ENTRIES_MAX {
                return Err(protocol(&call, &format!("its list has more than {ENTRIES_MAX} entries")));
            }
            match next {
                None => return Ok(all),
                Some(next) => call.url = next,
            }
        }
        Err(protocol(&call, &format!("its list has more than {PAGES_MAX} pages")))
    }

    fn page<P: DeserializeOwned>(&self, call: &Call<'_>) -> Result<(P, Option<Url>), RegistryError> {
        let response = self.transport.send(call)?;
        if response.status() != StatusCode::OK {
            return Err(self.transport.refusal(call, response));
        }
        let next = next_page(call, response.headers())?;
        // Some answer every path with a page for people.
        let is_html = response
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|value| value.to_str().is_ok_and(|text| text.starts_with("text/html")));
        if is_html {
            return Err(RegistryError::NotFound {
                registry: call.registry.to_owned(),
                object: call.object.clone(),
                detail: String::new(),
            });
        }
        let bytes = self.transport.read_document(call, response)?;
        let page = serde_json::from_slice(&bytes);
        Ok((page.map_err(|error| protocol(call, &format!("its list cannot be read: {error}")))?, next))
    }
}

/// The next page: `Link: <URL>; rel="next"` (RFC 8288). It must be the same registry's.
fn next_page(call: &Call<'_>, headers: &HeaderMap) -> Result<Option<Url>, RegistryError> {
    let links = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    let next = links.flat_map(|text| text.split(',')).find_map(|link| {
        let (url, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = parameters.split(';').any(|it| {
            let it = it.trim().to_ascii_lowercase();
            matches!(&*it, "rel=next" | "rel=\"next\"")
        });
        is_next.then(|| url.to_owned())
    });
    let Some(next) = next else { return Ok(None) };
    let url = call.url.join(&next).ok().filter(|url| url.origin() == call.url.origin());
    url.map(Some).ok_or_else(|| protocol(call, "the next page of its list is on another host"))
}
