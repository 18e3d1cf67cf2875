//! Snapshots that are described before their files are here.

use super::*;
use crate::snapshot::LazyLayer;
use crate::state::Record;
use crate::{ContentDigest, Key};

/// What somebody else has built, as it would be described.
struct Elsewhere {
    described: Vec<LazyLayer>,
    blobs: HashMap<Digest, Vec<u8>>,
}

impl Elsewhere {
    /// Three steps on top of each other; overlayfs leaves traces of what they only touched.
    fn new() -> (Self, String) {
        let world = World::new();
        let steps: [&dyn Fn(PathBuf); 3] = [
            &|root| {
                std::fs::create_dir_all(root.join("a/b")).unwrap();
                std::fs::write(root.join("a/b/file"), "one").unwrap();
            },
            &|root| {
                std::fs::create_dir(root.join("new")).unwrap();
                std::fs::write(root.join("a/b/gone"), "x").unwrap();
                std::fs::remove_file(root.join("a/b/gone")).unwrap();
            },
            &|root| {
                std::fs::remove_file(root.join("a/b/file")).unwrap();
                std::fs::write(root.join("new/file"), "three").unwrap();
            },
        ];
        let (mut chain, mut parent) = (Chain::default(), None);
        let (mut described, mut blobs) = (Vec::new(), HashMap::new());
        for step in steps {
            chain = world.step(&chain, step);
            let layer = make_layer(&world.store, &chain, parent, Variant::default()).unwrap();
            parent = Some(ChainId::extend(parent, layer.diff_id));
            let snapshot = world.store.snapshots(&chain).unwrap().pop().unwrap();
            blobs.insert(layer.digest, world.store.blobs().read(&layer.digest, 1 << 20).unwrap());
            described.push(LazyLayer {
                layer,
                variant: Variant::default().key(),
                content: snapshot.content,
                size: snapshot.size,
                created: snapshot.created,
            });
        }
        (Self { described, blobs }, world.dump(&chain))
    }

    fn fill(&self, world: &World, chain: &Chain) -> Result<(), DiffError> {
        fill(&world.store, chain, &|layer| {
            let blob = self.blobs.get(&layer.digest).cloned();
            let blob = blob.ok_or_else(|| std::io::Error::other("there is no such blob"))?;
            Ok(Box::new(std::io::Cursor::new(blob)))
        })
    }
}

#[test]
fn files_come_when_they_are_wanted() {
    let (elsewhere, files) = Elsewhere::new();
    let world = World::new();
    let chain = world.store.describe_chain(&elsewhere.described).unwrap();
    assert_eq!(world.store.describe_chain(&elsewhere.described).unwrap(), chain);
    assert_eq!((world.snapshots(), world.blobs()), (0, 0));
    let contents = |world: &World| -> Vec<ContentDigest> {
        world.store.snapshots(&chain).unwrap().into_iter().map(|it| it.content).collect()
    };
    let before = contents(&world);

    // The lower two alone, then the rest.
    elsewhere.fill(&world, &Chain(chain.0[..2].to_vec())).unwrap();
    assert_eq!(world.snapshots(), 2);
    elsewhere.fill(&world, &chain).unwrap();
    assert_eq!((world.snapshots(), world.blobs()), (3, 3));
    assert_eq!(world.dump(&chain), files);
    assert_eq!(contents(&world), before);
    // Nothing is left to be brought.
    Elsewhere { described: Vec::new(), blobs: HashMap::new() }.fill(&world, &chain).unwrap();
    // What is stacked in the same way is the same.
    assert_eq!(world.store.describe_chain(&elsewhere.described).unwrap(), chain);
}

#[test]
fn a_layer_that_is_pulled_gives_the_files_of_what_was_described() {
    let (elsewhere, files) = Elsewhere::new();
    let world = World::new();
    let chain = world.store.describe_chain(&elsewhere.described).unwrap();
    let blobs: Vec<Blob> = elsewhere
        .described
        .iter()
        .map(|described| {
            let Layer { digest, size, media_type, diff_id, .. } = described.layer.clone();
            let bytes = elsewhere.blobs[&digest].clone();
            Blob { source: LayerSource { digest, size, media_type, diff_id }, bytes }
        })
        .collect();
    assert_eq!(world.apply(&blobs).unwrap(), chain);
    assert_eq!(world.dump(&chain), files);
    assert_eq!(world.snapshots(), 3);
    let pulled = made_layers(&world.store, &chain.0, Variant::PULLED).unwrap();
    let layers: Vec<_> = elsewhere.described.iter().map(|it| Some(it.layer.clone())).collect();
    assert_eq!(pulled, layers);
}

#[test]
fn what_is_not_what_it_was_said_to_be_is_refused() {
    type Lie = fn(&mut Elsewhere);
    let lies: [Lie; 4] = [
        |it| it.described[1].content = ContentDigest([1; 32]),
        |it| it.described[1].layer.diff_id = DiffId(Digest::of(b"other")),
        |it| it.described[1].layer.size += 1,
        |it| drop(it.blobs.remove(&it.described[1].layer.digest)),
    ];
    for lie in lies {
        let (mut elsewhere, _) = Elsewhere::new();
        lie(&mut elsewhere);
        let world = World::new();
        let chain = world.store.describe_chain(&elsewhere.described).unwrap();
        elsewhere.fill(&world, &chain).unwrap_err();
        // The lowest may be here; what is on top of it is not.
        assert!(world.snapshots() <= 1);
        assert!(world.store.is_lazy(chain.0[1]).unwrap() && world.store.is_lazy(chain.0[2]).unwrap());
    }
}

#[test]
fn what_has_come_is_not_forgotten_with_the_rest() {
    let (elsewhere, _) = Elsewhere::new();
    let world = World::new();
    let chain = world.store.describe_chain(&elsewhere.described).unwrap();
    elsewhere.fill(&world, &Chain(chain.0[..1].to_vec())).unwrap();
    chain.0.iter().for_each(|id| world.store.drop_lazy_snapshot(*id).unwrap());
    assert_eq!(world.snapshots(), 1);
    assert_eq!(world.store.snapshots(&Chain(chain.0[..1].to_vec())).unwrap().len(), 1);
    for id in &chain.0[1..] {
        assert!(world.store.snapshots(&Chain(vec![*id])).is_err());
    }
}

#[test]
fn a_record_counts_while_its_layers_can_be_had() {
    let (elsewhere, _) = Elsewhere::new();
    let world = World::new();
    let chain = world.store.describe_chain(&elsewhere.described).unwrap();
    let (key, op, record) = (Key([1; 32]), Key([2; 32]), Record { outputs: vec![chain.clone()] });
    world.store.put_record_made_of(&[(key, Some(b"[]".to_vec()))], &op, &record).unwrap();
    assert_eq!(world.store.keys_of_record(&op, &record, 9).unwrap(), [(key, b"[]".to_vec())]);

    let found = |offered: bool| world.store.record_unless_lost(&key, &|_, _| offered).unwrap();
    assert_eq!((found(false), found(true)), (None, Some(record.clone())));
    for blob in elsewhere.blobs.values() {
        world.store.blobs().put(blob).unwrap();
    }
    assert_eq!(found(false), Some(record.clone()));
    Elsewhere { described: Vec::new(), blobs: HashMap::new() }.fill(&world, &chain).unwrap();
    assert_eq!(world.store.record(&key).unwrap(), Some(record));
}
