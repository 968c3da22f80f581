//! Every target over its corpus, by any compiler.

use std::fs;
use std::path::Path;

use keybound_fuzz::TARGETS;

#[test]
fn the_corpus_breaks_nothing() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, target) in TARGETS {
        let mut inputs = 0;
        for entry in fs::read_dir(corpus.join(name)).expect(name) {
            target(&fs::read(entry.expect(name).path()).expect(name));
            inputs += 1;
        }
        assert!(inputs > 0, "{name} has no corpus");
    }
}
