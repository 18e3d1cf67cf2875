//! What exporters of images are given: the image of one platform, or an index with an image a platform.

use std::collections::BTreeMap;

use serde::Serialize;
use wharf_cache::Digest;

use super::annotations::Level;
use super::form::{ImageForm, MediaTypes};
use super::{BuiltImage, Descriptor};

/// One image, or several and the index above them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// In the order in which the platforms were asked for; never empty.
    images: Vec<BuiltImage>,
    index: Option<Document>,
}

/// A manifest or index: its bytes and what names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// As the digest covers them.
    pub bytes: Vec<u8>,
    /// Media type, digest and size of them.
    pub descriptor: Descriptor,
}

/// An image index (OCI image-spec, image-index.md) as it is written.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Index<'a> {
    pub(super) schema_version: u8,
    pub(super) media_type: &'a str,
    pub(super) manifests: Vec<Descriptor>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: &'a BTreeMap<String, String>,
}

impl Artifact {
    /// An image by itself: what names it is its manifest.
    pub fn image(image: BuiltImage) -> Self {
        Self { images: vec![image], index: None }
    }

    /// An index of `images`, in their order (OCI image-spec, image-index.md), as `form` has it. There must be one at least.
    pub fn index(images: Vec<BuiltImage>, form: &ImageForm) -> Self {
        let ImageForm { types, annotations, .. } = form;
        let entry = |image: &BuiltImage| match types {
            MediaTypes::Oci => image.descriptor.clone(),
            // Docker's have none.
            MediaTypes::Docker => Descriptor { annotations: BTreeMap::new(), ..image.descriptor.clone() },
        };
        let manifests = images.iter().map(entry).collect();
        let annotated = annotations.of_index(Level::Index);
        let index =
            Index { schema_version: 2, media_type: types.index(), manifests, annotations: &annotated };
        let bytes = serde_json::to_vec_pretty(&index).expect("an index has string keys only");
        let descriptor = Descriptor {
            annotations: annotations.of_index(Level::IndexDescriptor),
            ..Descriptor::of(types.index(), &bytes)
        };
        Self { images, index: Some(Document { bytes, descriptor }) }
    }

    /// The images.
    pub fn images(&self) -> &[BuiltImage] {
        &self.images
    }

    /// The only image, if there is no index above it.
    pub fn only_image(&self) -> Option<&BuiltImage> {
        match self.index {
            None => self.images.first(),
            Some(_) => None,
        }
    }

    /// What names the whole: the descriptor of the index, or of the only manifest.
    pub fn descriptor(&self) -> &Descriptor {
        self.index.as_ref().map_or_else(|| &self.images[0].descriptor, |index| &index.descriptor)
    }

    /// What tells scripts which image this is: the digest of the only config, or of the index.
    pub fn id(&self) -> Digest {
        self.only_image().map_or_else(|| self.descriptor().digest, |image| image.config_descriptor.digest)
    }

    /// When the newest of the images was made (RFC 3339).
    pub fn created(&self) -> &str {
        self.images.iter().map(|image| &*image.created).max().expect("an artifact has an image")
    }

    /// The documents: configs, manifests and the index, inputs first.
    pub fn documents(&self) -> impl Iterator<Item = (&Descriptor, &[u8])> {
        let of_image = self.images.iter().flat_map(|image| {
            [(&image.config_descriptor, &*image.config), (&image.descriptor, &*image.manifest)]
        });
        of_image.chain(self.index.iter().map(|index| (&index.descriptor, &*index.bytes)))
    }

    /// The layers of all images.
    pub fn layers(&self) -> impl Iterator<Item = &Descriptor> {
        self.images.iter().flat_map(|image| &image.layers)
    }
}
