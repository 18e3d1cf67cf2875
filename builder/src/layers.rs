//! Layers of a chain, made while later steps still run.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::mpsc::Receiver;

use wharf_cache::diff::{DiffError, Variant, made_layers, make_layer, remake_layer};
use wharf_cache::snapshot::Layer;
use wharf_cache::{Chain, ChainId, SnapshotId, Store};
use wharf_runtime::Cancel;

use crate::remote::imports::Imports;

/// What layers are to be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// What their bytes depend on besides the files.
    pub variant: Variant,
    /// Whether layers that came from elsewhere in another form are made again.
    pub force: bool,
}

/// Makes the layer blobs of chains, each snapshot's once.
#[derive(Debug)]
pub struct Layers<'a> {
    store: &'a Store,
    /// Has the files of lazy snapshots.
    imports: &'a Imports<'a>,
    cancel: Cancel,
    form: Form,
    made: Mutex<HashMap<SnapshotId, Layer>>,
}

impl<'a> Layers<'a> {
    /// Layers will be made in `form`.
    pub fn new(store: &'a Store, imports: &'a Imports<'a>, cancel: Cancel, form: Form) -> Self {
        Self { store, imports, cancel, form, made: Mutex::new(HashMap::new()) }
    }

    /// What they are made in.
    pub fn variant(&self) -> Variant {
        self.form.variant
    }

    /// What they are like.
    pub fn form(&self) -> Form {
        self.form
    }

    /// The same for layers whose files keep their times.
    pub fn unclamped(&self) -> Self {
        let variant = Variant { clamp_time_s: None, ..self.form.variant };
        Self::new(self.store, self.imports, self.cancel.clone(), Form { variant, ..self.form })
    }

    /// The layers of a chain, lowest first: those it was unpacked from, and new ones for what was built. The blobs of those
    /// that came from elsewhere need not be here.
    pub fn of(&self, chain: &Chain) -> Result<Vec<Layer>, LayerError> {
        // Held while a layer is made: making one uses all processors already.
        let mut made = self.made.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // What goes wrong here goes wrong again when the layer in question is made.
        let _ = self.find(chain, &mut made);
        let mut parent: Option<ChainId> = None;
        let mut layers = Vec::with_capacity(chain.0.len());
        for (number, id) in chain.0.iter().enumerate() {
            let layer = match made.get(id) {
                Some(layer) => layer.clone(),
                None => {
                    let below = Chain(chain.0[..=number].to_vec());
                    let layer = self.make(&below, parent);
                    let layer = layer.map_err(|source| LayerError { number, source })?;
                    made.insert(*id, layer.clone());
                    layer
                }
            };
            parent = Some(ChainId::extend(parent, layer.diff_id));
            layers.push(layer);
        }
        Ok(layers)
    }

    fn make(&self, chain: &Chain, parent: Option<ChainId>) -> Result<Layer, DiffError> {
        // What is still elsewhere and has no layer of this form is made of the files, like anything else.
        self.imports.bring_files(chain, &self.cancel)?;
        match self.form.force {
            true => remake_layer(self.store, chain, parent, self.form.variant),
            false => make_layer(self.store, chain, parent, self.form.variant),
        }
    }

    /// Looks up, all at once, which of a chain's layers there are: those it was unpacked from and those of lazy snapshots,
    /// whether or not their blobs are here, and those that were made before.
    fn find(&self, chain: &Chain, made: &mut HashMap<SnapshotId, Layer>) -> Result<(), DiffError> {
        let unknown = |made: &HashMap<SnapshotId, Layer>| -> Vec<SnapshotId> {
            chain.0.iter().filter(|id| !made.contains_key(id)).copied().collect()
        };
        let add = |made: &mut HashMap<_, _>, wanted: Vec<SnapshotId>, found: Vec<Option<Layer>>| {
            made.extend(wanted.into_iter().zip(found).filter_map(|(id, layer)| Some((id, layer?))));
        };
        let variant = self.form.variant.key();
        if !self.form.force {
            let wanted = unknown(made);
            let pulled = self.store.layers(&wanted, Variant::PULLED)?;
            add(made, wanted, pulled);
        }
        let wanted = unknown(made);
        let known = made_layers(self.store, &wanted, &variant)?;
        add(made, wanted, known);
        let wanted = unknown(made);
        if !wanted.is_empty() {
            let lazy =
                self.store.lazy_layers(&Chain(wanted))?.into_iter().map(|(id, _)| id).collect::<Vec<_>>();
            let described = self.store.layers(&lazy, &variant)?;
            add(made, lazy, described);
        }
        Ok(())
    }
}

/// The layers of chains in several forms.
#[derive(Debug)]
pub struct LayerForms<'a>(Vec<Layers<'a>>);

impl<'a> LayerForms<'a> {
    /// In each of `forms`, as often as it is named, by what `make` makes for it.
    pub fn new(forms: impl IntoIterator<Item = Form>, make: impl Fn(Form) -> Layers<'a>) -> Self {
        let mut known: Vec<Layers<'a>> = Vec::new();
        for form in forms {
            if !known.iter().any(|layers| layers.form == form) {
                known.push(make(form));
            }
        }
        Self(known)
    }

    /// Those in `form`, which was named.
    pub fn get(&self, form: Form) -> &Layers<'a> {
        let found = self.0.iter().find(|layers| layers.form == form);
        found.expect("a form was named before layers are wanted in it")
    }
}

/// Makes the layers of every chain that arrives, in each of `forms`, until no more can, or the build is `cancelled`; `made`
/// is told of them. A failure here is found again, and then told, by [`Layers::of`].
pub fn make_as_they_come(
    forms: &[&Layers<'_>],
    chains: &Receiver<Chain>,
    cancelled: &dyn Fn() -> bool,
    made: &dyn Fn(Form, &[Layer]),
) {
    for chain in chains {
        for layers in forms {
            if cancelled() {
                return;
            }
            let Ok(found) = layers.of(&chain) else { return };
            made(layers.form(), &found);
        }
    }
}

/// A layer could not be made.
#[derive(Debug, thiserror::Error)]
#[error("layer {}", number + 1)]
pub struct LayerError {
    /// Which of the chain's, counted from the lowest (0).
    pub number: usize,
    /// Why.
    pub source: DiffError,
}
