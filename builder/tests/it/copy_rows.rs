//! The rows of the COPY and ADD matrix.
//!
//! A file's time is as in its source where an expected line ends with its name or content, the time of the build where it
//! ends in ` new`. Base directories belong to 7:8.

/// What one instruction is to give.
#[derive(Debug)]
pub(crate) struct Row {
    /// The name of its directory.
    pub(crate) name: String,
    /// What is in that directory before.
    pub(crate) base: &'static [&'static str],
    /// The instruction; `@` is the directory.
    pub(crate) instruction: String,
    /// The entries of its layer, in order.
    pub(crate) expected: Vec<String>,
}

/// The context.
pub(crate) const TREE: &[&str] = &[
    "f=one",
    "600:g=two",
    "x.txt=x",
    "y.txt=y",
    "z.md=z",
    "755:exec=e",
    "4755:suid=s",
    "c1=1",
    "c2=2",
    "c3=3",
    "st*r=star",
    "sp ace=space",
    "ünï=u",
    ".hidden=h",
    "xa=xa",
    "750:d/",
    "d/a=aa",
    "d/dang->nowhere",
    "d/empty/",
    "d/ln->a",
    "700:d/sub/",
    "640:d/sub/b=bb",
    "1777:sticky/",
    "sticky/s=s",
    "empty/",
    "hard/h1=hh",
    "hard/h2=>hard/h1",
    "600:odd/p|",
    "600:odd/sock^",
    "lf->f",
    "ld->d",
    "labs->/f",
    "labsd->/d",
    "lesc->../../../f",
    "lsub->d/sub",
    "ldang->missing",
    "lloop->lloop",
];

/// A directory's contents, [`TREE`]'s `d`, where it is copied to `n`.
const D: &[&str] = &[
    "d 755 0:0 n",
    "f 644 0:0 n/a=aa",
    "l 777 0:0 n/dang->nowhere",
    "d 755 0:0 n/empty",
    "l 777 0:0 n/ln->a",
    "d 700 0:0 n/sub",
    "f 640 0:0 n/sub/b=bb",
];

/// Source, destination and what it gives, whatever the instruction is and wherever the files come from.
const PLAIN: &[(&str, &[&str])] = &[
    // Files.
    ("f @/x", &["f 644 0:0 x=one"]),
    ("f @/n/", &["d 755 0:0 n new", "f 644 0:0 n/f=one"]),
    ("f @/n/.", &["d 755 0:0 n new", "f 644 0:0 n/f=one"]),
    (
        "f @/a/b/c/x",
        &["d 755 0:0 a new", "d 755 0:0 a/b new", "d 755 0:0 a/b/c new", "f 644 0:0 a/b/c/x=one"],
    ),
    ("f @/a/../x", &["f 644 0:0 x=one"]),
    ("g @/x", &["f 600 0:0 x=two"]),
    ("exec @/x", &["f 755 0:0 x=e"]),
    ("suid @/x", &["f 4755 0:0 x=s"]),
    ("sparse @/x", &["f 644 0:0 x(1048576)"]),
    ("xa @/x", &["f 644 0:0 x=xa [user.k=v]"]),
    ("ünï .hidden @/n/", &["d 755 0:0 n new", "f 644 0:0 n/.hidden=h", "f 644 0:0 n/ünï=u"]),
    ("[\"sp ace\", \"@/n/\"]", &["d 755 0:0 n new", "f 644 0:0 n/sp ace=space"]),
    ("raw @/n", &["d 755 0:0 n", "f 644 0:0 n/\\xff\\xfe=raw"]),
    // Sources that lead upward, absolute ones.
    ("../f @/x", &["f 644 0:0 x=one"]),
    ("/../../f @/x", &["f 644 0:0 x=one"]),
    ("/f @/x", &["f 644 0:0 x=one"]),
    ("./d/../f @/x", &["f 644 0:0 x=one"]),
    ("f/ @/x", &["f 644 0:0 x=one"]),
    // Directories are their contents.
    ("d @/n", D),
    ("d @/n/", D),
    ("d/ @/n", D),
    ("d/. @/n", D),
    ("/d/sub/.. @/n", D),
    ("ld @/n", D),
    ("labsd @/n", D),
    ("empty @/n", &["d 755 0:0 n"]),
    ("empty @/n/m/", &["d 755 0:0 n new", "d 755 0:0 n/m"]),
    ("sticky @/n", &["d 755 0:0 n", "f 644 0:0 n/s=s"]),
    ("hard @/n", &["d 755 0:0 n", "f 644 0:0 n/h1=hh", "h 644 0:0 n/h2=>n/h1"]),
    ("odd @/n", &["d 755 0:0 n", "p 600 0:0 n/p", "f 600 0:0 n/sock="]),
    ("odd/sock @/x", &["f 600 0:0 x="]),
    ("odd/p @/x", &["p 600 0:0 x"]),
    // Symlinks.
    ("lf @/x", &["f 644 0:0 x=one"]),
    ("lf @/n/", &["d 755 0:0 n new", "f 644 0:0 n/lf=one"]),
    ("labs @/x", &["f 644 0:0 x=one"]),
    ("lesc @/x", &["f 644 0:0 x=one"]),
    ("ld/a @/x", &["f 644 0:0 x=aa"]),
    ("labsd/sub/b @/x", &["f 640 0:0 x=bb"]),
    ("lsub @/n", &["d 755 0:0 n", "f 640 0:0 n/b=bb"]),
    // Wildcards.
    ("z.* @/n/", &["d 755 0:0 n new", "f 644 0:0 n/z.md=z"]),
    ("z.* @/x", &["f 644 0:0 x=z"]),
    ("*.txt @/n/", &["d 755 0:0 n new", "f 644 0:0 n/x.txt=x", "f 644 0:0 n/y.txt=y"]),
    ("*.txt @/x", &["f 644 0:0 x=y"]),
    ("none* @/n/", &[]),
    ("none* f @/n/", &["d 755 0:0 n new", "f 644 0:0 n/f=one"]),
    ("[g]one[x] @/n/", &[]),
    ("c[13] @/n/", &["d 755 0:0 n new", "f 644 0:0 n/c1=1", "f 644 0:0 n/c3=3"]),
    ("c[^1] @/n/", &["d 755 0:0 n new", "f 644 0:0 n/c2=2", "f 644 0:0 n/c3=3"]),
    ("c? @/n/", &["d 755 0:0 n new", "f 644 0:0 n/c1=1", "f 644 0:0 n/c2=2", "f 644 0:0 n/c3=3"]),
    ("st[*]r @/n/", &["d 755 0:0 n new", "f 644 0:0 n/st*r=star"]),
    ("lf* @/n/", &["d 755 0:0 n new", "f 644 0:0 n/lf=one"]),
    ("*/a @/n/", &["d 755 0:0 n new", "f 644 0:0 n/a=aa"]),
    ("d/*/b @/n/", &["d 755 0:0 n new", "f 640 0:0 n/b=bb"]),
    ("ld/su* @/n", &["d 755 0:0 n", "f 640 0:0 n/b=bb"]),
    // Several sources.
    ("f g @/n/", &["d 755 0:0 n new", "f 644 0:0 n/f=one", "f 600 0:0 n/g=two"]),
    ("f g @/x", &["f 600 0:0 x=two"]),
    ("d/sub f @/n/", &["d 755 0:0 n new", "f 640 0:0 n/b=bb", "f 644 0:0 n/f=one"]),
    ("f d/sub @/n/", &["d 755 0:0 n", "f 640 0:0 n/b=bb", "f 644 0:0 n/f=one"]),
];

/// The same with what is there before, where the instruction can see it.
const OVER: &[(&[&str], &str, &[&str])] = &[
    (&[], "f @", &["f 644 0:0 f=one"]),
    (&["711:e/"], "f @/e", &["d 711 7:8 e new", "f 644 0:0 e/f=one"]),
    (&["711:e/"], "f @/e/", &["d 711 7:8 e new", "f 644 0:0 e/f=one"]),
    (&["e=old"], "f @/e", &["f 644 0:0 e=one"]),
    (&["711:e/", "l->e"], "f @/l", &["d 711 7:8 e new", "f 644 0:0 e/f=one"]),
    (&["711:e/", "l->@/e"], "f @/l", &["d 711 7:8 e new", "f 644 0:0 e/f=one"]),
    (&["711:e/", "l->e"], "f @/l/x", &["d 711 7:8 e new", "f 644 0:0 e/x=one"]),
    (&["711:e/", "l->../../../..@/e"], "f @/l/x", &["d 711 7:8 e new", "f 644 0:0 e/x=one"]),
    (&["t=old", "l->t"], "f @/l", &["f 644 0:0 t=one"]),
    (&["l->t"], "f @/l", &["f 644 0:0 t=one"]),
    (&["l->t/u"], "f @/l", &["d 755 0:0 t new", "f 644 0:0 t/u=one"]),
    (&["l->t"], "f @/l/", &["d 755 0:0 t new", "f 644 0:0 t/f=one"]),
    (&["l->t"], "f @/l/x", &["d 755 0:0 t new", "f 644 0:0 t/x=one"]),
    (&["l->t"], "d/sub @/l", &["d 755 0:0 t", "f 640 0:0 t/b=bb"]),
    (&["711:e/", "l->e"], "d/sub @/l", &["d 711 7:8 e", "f 640 0:0 e/b=bb"]),
    (
        &["711:e/", "e/a=old", "e/keep=k", "777:e/sub/", "e/sub/old=o"],
        "d @/e",
        &[
            "d 711 7:8 e",
            "f 644 0:0 e/a=aa",
            "l 777 0:0 e/dang->nowhere",
            "d 755 0:0 e/empty",
            "l 777 0:0 e/ln->a",
            "d 700 0:0 e/sub",
            "f 640 0:0 e/sub/b=bb",
        ],
    ),
    (&["711:e/", "e/b->../t", "t=kept"], "d/sub @/e", &["d 711 7:8 e", "f 640 0:0 e/b=bb"]),
    (&["711:e/", "e/b=old"], "d/sub @/e/", &["d 711 7:8 e", "f 640 0:0 e/b=bb"]),
    (
        &["711:e/", "e/x.txt->away"],
        "*.txt @/e/",
        &["d 711 7:8 e new", "f 644 0:0 e/x.txt=x", "f 644 0:0 e/y.txt=y"],
    ),
];

/// Rows of one instruction only.
const SPECIAL: &[(&[&str], &str, &[&str])] = &[
    // WORKDIR is what relative destinations begin at.
    (&[], "WORKDIR @/w\nCOPY f x", &["d 755 0:0 w new", "f 644 0:0 w/x=one"]),
    (&[], "WORKDIR @/w\nCOPY f .", &["d 755 0:0 w new", "f 644 0:0 w/f=one"]),
    (&[], "WORKDIR @/w\nCOPY f ./", &["d 755 0:0 w new", "f 644 0:0 w/f=one"]),
    (&[], "WORKDIR @/w/v\nCOPY f ..", &["d 755 0:0 w new", "f 644 0:0 w/f=one"]),
    (&[], "WORKDIR @/w\nENV empty=\nCOPY f $empty", &["d 755 0:0 w new", "f 644 0:0 w/f=one"]),
    (&[], "WORKDIR @/w\nENV empty=\nCOPY --link f $empty", &["d 755 0:0 w new", "f 644 0:0 w/f=one"]),
    (&[], "WORKDIR @/w\nCOPY --link d/sub .", &["d 755 0:0 w", "f 640 0:0 w/b=bb"]),
    (&[], "WORKDIR @/w\nCOPY d/sub s", &["d 755 0:0 w new", "d 755 0:0 w/s", "f 640 0:0 w/s/b=bb"]),
    (&[], "USER 9:10\nWORKDIR @/w/v", &["d 755 9:10 w new", "d 755 9:10 w/v new"]),
    (&["711:w/"], "WORKDIR @/w\nUSER 0\nWORKDIR @/w", &[]),
    (&[], "USER app\nWORKDIR @/w\nUSER 0", &["d 755 1000:1001 w new"]),
    // Owners.
    (&[], "COPY --chown=7 f @/x", &["f 644 7:7 x=one"]),
    (&[], "COPY --chown=7:9 f @/p/x", &["d 755 7:9 p new", "f 644 7:9 p/x=one"]),
    (&[], "COPY --chown=:9 f @/x", &["f 644 0:9 x=one"]),
    (&[], "COPY --chown=app f @/x", &["f 644 1000:1001 x=one"]),
    (&[], "COPY --chown=app:staff f @/x", &["f 644 1000:50 x=one"]),
    (&[], "COPY --chown=app:7 f @/x", &["f 644 1000:7 x=one"]),
    (&[], "COPY --chown=7:staff f @/x", &["f 644 7:50 x=one"]),
    (&[], "COPY --link --chown=app f @/x", &["f 644 1000:1001 x=one"]),
    (&[], "COPY --link --chown=7:9 f @/p/x", &["d 755 7:9 p new", "f 644 7:9 p/x=one"]),
    (&[], "ARG o=7:9\nADD --chown=$o d/sub @/n", &["d 755 7:9 n", "f 640 7:9 n/b=bb"]),
    (&["711:e/"], "COPY --chown=9 d/sub @/e", &["d 711 7:8 e", "f 640 9:9 e/b=bb"]),
    (&[], "COPY --from=own /f @/x", &["f 644 5:6 x=one"]),
    (&[], "COPY --from=own --chown=9 /f @/x", &["f 644 9:9 x=one"]),
    (&[], "COPY --link --from=own /f @/p/x", &["d 755 0:0 p new", "f 644 5:6 p/x=one"]),
    (
        &[],
        "COPY --from=own /d @/n",
        &[
            "d 755 0:0 n",
            "f 644 101:102 n/a=aa",
            "l 777 101:102 n/dang->nowhere",
            "d 755 101:102 n/empty",
            "l 777 101:102 n/ln->a",
            "d 700 101:102 n/sub",
            "f 640 101:102 n/sub/b=bb",
        ],
    ),
    (&[], "COPY --from=odd /odd/c @/x", &["c 644 0:0 x 1:3 @990000000"]),
    (&[], "COPY --from=odd /odd/p @/x", &["p 640 0:0 x @990000000"]),
    (&[], "COPY --from=odd --chmod=600 /odd/c @/x", &["c 600 0:0 x 1:3 @990000000"]),
    // Modes.
    (&[], "COPY --chmod=4711 f @/x", &["f 4711 0:0 x=one"]),
    (&[], "COPY --chmod=0 f @/x", &["f 0 0:0 x=one"]),
    (&[], "COPY --chmod=7777 f @/x", &["f 7777 0:0 x=one"]),
    (&[], "COPY --chmod=700 f @/p/x", &["d 700 0:0 p new", "f 700 0:0 p/x=one"]),
    (&[], "COPY --chmod=4750 d/sub @/p/n", &["d 750 0:0 p new", "d 750 0:0 p/n", "f 4750 0:0 p/n/b=bb"]),
    (
        &[],
        "ARG m=640\nCOPY --chmod=$m d @/n",
        &[
            "d 640 0:0 n",
            "f 640 0:0 n/a=aa",
            "l 777 0:0 n/dang->nowhere",
            "d 640 0:0 n/empty",
            "l 777 0:0 n/ln->a",
            "d 640 0:0 n/sub",
            "f 640 0:0 n/sub/b=bb",
        ],
    ),
    (&["711:e/"], "COPY --chmod=600 d/sub @/e", &["d 711 7:8 e", "f 600 0:0 e/b=bb"]),
    (
        &[],
        "COPY --chmod=u=rwX,go=rX d @/n",
        &[
            "d 755 0:0 n",
            "f 644 0:0 n/a=aa",
            "l 777 0:0 n/dang->nowhere",
            "d 755 0:0 n/empty",
            "l 777 0:0 n/ln->a",
            "d 755 0:0 n/sub",
            "f 644 0:0 n/sub/b=bb",
        ],
    ),
    (&[], "COPY --chmod=u=rwX,go=rX exec @/x", &["f 755 0:0 x=e"]),
    (&[], "COPY --chmod=+x g @/p/x", &["d 755 0:0 p new", "f 711 0:0 p/x=two"]),
    (&[], "COPY --chmod=g=u g @/x", &["f 660 0:0 x=two"]),
    (&[], "COPY --chmod=a-w f @/x", &["f 444 0:0 x=one"]),
    (&[], "COPY --chmod=u+s,g+s,o-rx exec @/x", &["f 6750 0:0 x=e"]),
    (&[], "COPY --chmod=u-s suid @/x", &["f 755 0:0 x=s"]),
    (&[], "COPY --chmod=+t d/sub @/n", &["d 755 0:0 n", "f 1640 0:0 n/b=bb"]),
    (&[], "ADD --chmod=755 f @/x", &["f 755 0:0 x=one"]),
    (&[], "COPY --link --chmod=711 f @/x", &["f 711 0:0 x=one"]),
    (&[], "COPY --from=own --chmod=600 /f @/x", &["f 600 5:6 x=one"]),
    // --link makes its own directories.
    (&["711:e/", "l->e"], "COPY --link f @/l/x", &["d 755 0:0 l new", "f 644 0:0 l/x=one"]),
    (&["711:e/"], "COPY --link f @/e/", &["d 755 0:0 e new", "f 644 0:0 e/f=one"]),
    (&["711:e/"], "COPY --link f @/e", &["f 644 0:0 e=one"]),
    (&[], "COPY --link=false f @/x", &["f 644 0:0 x=one"]),
    // Patterns of what is left out are relative to the source.
    (
        &[],
        "COPY --exclude=sub --exclude=ln --exclude=dang d @/n",
        &["d 755 0:0 n", "f 644 0:0 n/a=aa", "d 755 0:0 n/empty"],
    ),
    (&[], "COPY --exclude=**/b --exclude=* d/ @/n", &["d 755 0:0 n"]),
    (
        &[],
        "COPY --exclude=* --exclude=!sub d @/n",
        &["d 755 0:0 n", "d 700 0:0 n/sub", "f 640 0:0 n/sub/b=bb"],
    ),
    (
        &[],
        "COPY --exclude=* --exclude=!sub/b d @/n",
        &["d 755 0:0 n", "d 700 0:0 n/sub", "f 640 0:0 n/sub/b=bb"],
    ),
    (&[], "COPY --exclude=*/b --exclude=[ade]* --exclude=ln d @/n", &["d 755 0:0 n", "d 700 0:0 n/sub"]),
    (&[], "COPY --exclude=d/sub d/sub @/n", &["d 755 0:0 n", "f 640 0:0 n/b=bb"]),
    (&[], "COPY --exclude=*.txt *.txt z.md @/n/", &["d 755 0:0 n new", "f 644 0:0 n/z.md=z"]),
    (&[], "ADD --exclude=b d/s* @/n", &["d 755 0:0 n"]),
    (&[], "COPY --from=src --exclude=**/b /d/sub @/n", &["d 755 0:0 n"]),
    (&[], "COPY --link --exclude=b d/sub @/n", &["d 755 0:0 n"]),
    // Heredocs.
    (&[], "COPY <<E @/x\nhi $no\nE", &["f 644 0:0 x=hi \n new"]),
    (&[], "COPY <<'E' @/n/\nhi $no\nE", &["d 755 0:0 n new", "f 644 0:0 n/E=hi $no\n new"]),
    (
        &[],
        "ADD <<a <<-b @/n/\n1\na\n\t2\nb",
        &["d 755 0:0 n new", "f 644 0:0 n/a=1\n new", "f 644 0:0 n/b=2\n new"],
    ),
    (
        &[],
        "COPY --chmod=600 --chown=9 f <<E @/n/\n\"'`\\$x\nE",
        &["d 600 9:9 n new", "f 600 9:9 n/E=\"'`$x\n new", "f 600 9:9 n/f=one"],
    ),
    (&["711:e/"], "COPY <<E @/e\nE", &["d 711 7:8 e new", "f 644 0:0 e/E= new"]),
    (&["e=old"], "COPY --link <<E @/e\nnew\nE", &["f 644 0:0 e=new\n new"]),
    // Archives.
    (
        &[],
        "ADD --chown=9:3 t.tar @/n",
        &[
            "d 755 9:3 n new",
            "f 4711 9:3 n/a=A @980000000",
            "d 750 9:3 n/dir @980000000",
            "f 640 9:3 n/dir/b=B @980000000",
            "h 4711 9:3 n/h=>n/a @980000000",
            "d 755 9:3 n/imp new",
            "f 644 9:3 n/imp/c=C @980000000",
            "l 777 9:3 n/l->/a @980000000",
        ],
    ),
    (
        &["711:n/", "777:n/dir/", "n/a->b", "n/imp->/real"],
        "ADD t.tar @/n",
        &[
            "d 711 7:8 n new",
            "f 4711 0:0 n/a=A @980000000",
            "d 750 0:0 n/dir @980000000",
            "f 640 0:0 n/dir/b=B @980000000",
            "h 4711 0:0 n/h=>n/a @980000000",
            "l 777 0:0 n/l->/a @980000000",
            "d 755 0:0 n/real new",
            "f 644 0:0 n/real/c=C @980000000",
        ],
    ),
    (
        &["711:e/", "n->e", "e/a/", "e/a/under=u"],
        "ADD --exclude=x t.tar @/n/",
        &[
            "d 711 7:8 e new",
            "f 4711 0:0 e/a=A @980000000",
            "d 750 0:0 e/dir @980000000",
            "f 640 0:0 e/dir/b=B @980000000",
            "h 4711 0:0 e/h=>e/a @980000000",
            "d 755 0:0 e/imp new",
            "f 644 0:0 e/imp/c=C @980000000",
            "l 777 0:0 e/l->/a @980000000",
        ],
    ),
    (&[], "ADD --unpack=false t.tar @/n/", &["d 755 0:0 n new", "f 644 0:0 n/t.tar(6144)"]),
    (&[], "COPY t.tar @/n/", &["d 755 0:0 n new", "f 644 0:0 n/t.tar(6144)"]),
    (&[], "ADD named.tar @/n/", &["d 755 0:0 n new", "f 644 0:0 n/named.tar=no archive"]),
];

/// What an archive gives, and the sources it is in: how it is packed makes no difference, nor how often it comes.
const UNPACKED: &[&str] = &[
    "d 755 0:0 n new",
    "f 4711 0:0 n/a=A @980000000",
    "d 750 0:0 n/dir @980000000",
    "f 640 0:0 n/dir/b=B @980000000",
    "h 4711 0:0 n/h=>n/a @980000000",
    "d 755 0:0 n/imp new",
    "f 644 0:0 n/imp/c=C @980000000",
    "l 777 0:0 n/l->/a @980000000",
];
const PACKED: &[&str] = &[
    "t.tar @/n",
    "t.tar @/n/",
    "packed.gz @/n",
    "packed.bz2 @/n",
    "packed.xz @/n",
    "packed.zst @/n",
    "[tu].tar @/n/",
    "packed.* @/n/",
    "--link packed.gz @/n",
    "--unpack packed.gz @/n",
    "--unpack=true t.tar @/n",
];

/// `--parents`, of the context, linked, and of a stage.
const PARENTS: &[(&str, &[&str])] = &[
    ("d/sub/b @/", &["d 750 0:0 d", "d 700 0:0 d/sub", "f 640 0:0 d/sub/b=bb"]),
    ("/d/sub/b @/n/", &["d 755 0:0 n", "d 750 0:0 n/d", "d 700 0:0 n/d/sub", "f 640 0:0 n/d/sub/b=bb"]),
    ("d/sub @/", &["d 750 0:0 d", "d 700 0:0 d/sub", "f 640 0:0 d/sub/b=bb"]),
    ("d/sub/. @/", &["d 750 0:0 d", "d 700 0:0 d/sub", "f 640 0:0 d/sub/b=bb"]),
    ("./d/./sub/b @/n/", &["d 755 0:0 n", "d 700 0:0 n/sub", "f 640 0:0 n/sub/b=bb"]),
    ("d/./sub/b @/n", &["d 755 0:0 n", "d 700 0:0 n/sub", "f 640 0:0 n/sub/b=bb"]),
    ("/d/./sub @/n", &["d 755 0:0 n", "d 700 0:0 n/sub", "f 640 0:0 n/sub/b=bb"]),
    ("d/./sub/./b @/n", &["d 755 0:0 n", "d 700 0:0 n/sub", "f 640 0:0 n/sub/b=bb"]),
    ("d/sub/./b f @/n", &["d 755 0:0 n", "f 640 0:0 n/b=bb", "f 644 0:0 n/f=one"]),
    (
        "d/* @/n",
        &[
            "d 755 0:0 n",
            "d 750 0:0 n/d",
            "f 644 0:0 n/d/a=aa",
            "l 777 0:0 n/d/dang->nowhere",
            "d 755 0:0 n/d/empty",
            "l 777 0:0 n/d/ln->a",
            "d 700 0:0 n/d/sub",
            "f 640 0:0 n/d/sub/b=bb",
        ],
    ),
    ("**/b @/n", &["d 755 0:0 n", "d 750 0:0 n/d", "d 700 0:0 n/d/sub", "f 640 0:0 n/d/sub/b=bb"]),
    ("d/**/b @/n", &["d 755 0:0 n", "d 750 0:0 n/d", "d 700 0:0 n/d/sub", "f 640 0:0 n/d/sub/b=bb"]),
    ("d/s*/./b @/n", &["d 755 0:0 n", "f 640 0:0 n/b=bb"]),
    // A file is no directory to keep paths below of, and copied like any other.
    (
        "[de]*/./**/b @/n",
        &["d 755 0:0 n new", "f 755 0:0 n/exec=e", "d 700 0:0 n/sub", "f 640 0:0 n/sub/b=bb"],
    ),
    ("d/./. @/n", D),
    ("*.md z.md @/n/", &["d 755 0:0 n", "f 644 0:0 n/z.md=z"]),
    ("none* @/n/", &["d 755 0:0 n"]),
    ("ld @/n", &["d 755 0:0 n", "l 777 0:0 n/ld->d"]),
    ("ld/./sub/b @/n", &["d 755 0:0 n", "d 700 0:0 n/sub", "f 640 0:0 n/sub/b=bb"]),
    (
        "--chmod=711 d/sub/b @/n/",
        &["d 711 0:0 n", "d 711 0:0 n/d", "d 711 0:0 n/d/sub", "f 711 0:0 n/d/sub/b=bb"],
    ),
    ("--chown=9 d/./sub @/n", &["d 755 9:9 n", "d 700 9:9 n/sub", "f 640 9:9 n/sub/b=bb"]),
    ("--exclude=**/b d/./su* @/n", &["d 755 0:0 n", "d 700 0:0 n/sub"]),
    ("--exclude=d/sub d/[as]* @/n", &["d 755 0:0 n", "d 750 0:0 n/d", "f 644 0:0 n/d/a=aa"]),
];

/// Everything together: each of the tables with each of the instructions that it is for.
pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |base: &'static [&'static str], instruction: String, expected: &[&str]| {
        let name = format!("r{:03}", rows.len());
        let expected = expected.iter().map(|line| (*line).to_owned()).collect();
        rows.push(Row { name, base, instruction, expected });
    };
    for (arguments, expected) in PLAIN {
        for verb in ["COPY", "ADD", "COPY --link", "COPY --from=src", "COPY --from=img"] {
            add(&[], format!("{verb} {arguments}"), expected);
        }
    }
    for (base, arguments, expected) in OVER {
        for verb in ["COPY", "ADD", "COPY --from=src", "COPY --from=img"] {
            add(base, format!("{verb} {arguments}"), expected);
        }
    }
    SPECIAL.iter().for_each(|(base, instruction, expected)| add(base, (*instruction).to_owned(), expected));
    PACKED.iter().for_each(|arguments| add(&[], format!("ADD {arguments}"), UNPACKED));
    for (arguments, expected) in PARENTS {
        for verb in ["COPY --parents", "COPY --link --parents", "COPY --parents --from=src"] {
            add(&[], format!("{verb} {arguments}"), expected);
        }
    }
    rows
}

/// Instructions that fail: exit status, and what is said. They begin at busybox or bring their own base.
pub(crate) const ERRORS: &[(&str, i32, &[&str])] = &[
    ("COPY nope /x", 1, &["\"/nope\": not found"]),
    ("ADD nope /x", 1, &["\"/nope\": not found"]),
    ("COPY f nope g /x/", 1, &["\"/nope\": not found"]),
    ("COPY f/x /x", 1, &["\"/f/x\": not found"]),
    ("COPY d/nope/deep /x", 1, &["\"/d/nope/deep\": not found"]),
    ("COPY ldang /x", 1, &["\"/ldang\": not found"]),
    ("COPY ldan* /x/", 1, &["\"/ldang\": not found"]),
    ("COPY --from=busybox /nope /x", 1, &["\"/nope\": not found"]),
    ("COPY ignored /x", 1, &["\"/ignored\": not found", "ignore file"]),
    ("COPY lloop /x", 1, &["/lloop", "symbolic links"]),
    ("COPY lloop/x /x", 1, &["/lloop/x", "symbolic links"]),
    ("COPY --parents d/nope /x/", 1, &["\"/d/nope\": not found"]),
    ("COPY --parents d/./nope /x/", 1, &["\"/d/nope\": not found"]),
    ("COPY --parents nope/./a /x/", 1, &["\"/nope/a\": not found"]),
    ("COPY [] /x/", 1, &["`[]` is not a pattern"]),
    ("COPY d /etc/passwd", 1, &["cannot copy to non-directory \"/etc/passwd\""]),
    ("COPY f /etc/passwd/", 1, &["cannot copy to non-directory \"/etc/passwd\""]),
    ("COPY f /etc/passwd/x", 1, &["cannot copy to non-directory \"/etc/passwd\""]),
    ("COPY f d/sub /y", 1, &["cannot copy to non-directory \"/y\""]),
    ("COPY f /sub\nCOPY d /", 1, &["cannot copy to non-directory \"/sub\""]),
    (
        "COPY d /e\nRUN mv /e/sub /s && ln -s /s /e/sub\nCOPY d /e",
        1,
        &["cannot copy to non-directory \"/e/sub\""],
    ),
    ("COPY d /e/f/\nCOPY f /e/", 1, &["cannot replace to directory \"/e/f\" with file"]),
    ("COPY empty /e/a/\nCOPY d /e", 1, &["cannot replace to directory \"/e/a\" with file"]),
    ("RUN ln -s /loop /loop\nCOPY f /loop", 1, &["/loop", "symbolic links"]),
    ("COPY --chown=nosuch f /x", 1, &["unable to find user nosuch"]),
    ("COPY --chown=root:nosuch f /x", 1, &["unable to find group nosuch"]),
    ("COPY --link --chown=nosuch f /x", 1, &["unable to find user nosuch"]),
    ("ADD --chown=nosuch t.tar /x", 1, &["unable to find user nosuch"]),
    ("FROM scratch\nCOPY --chown=app f /x", 1, &["there is no /etc/passwd to look \"app\" up in"]),
    ("FROM scratch\nCOPY --chown=7:app f /x", 1, &["there is no /etc/group to look \"app\" up in"]),
    ("COPY --chmod=888 f /x", 3, &["invalid chmod parameter: '888'"]),
    ("COPY --chmod=10000 f /x", 3, &["invalid chmod parameter: '10000'"]),
    ("ADD --chmod=u=q f /x", 3, &["invalid chmod parameter: 'u=q'"]),
    ("COPY --exclude=[ d /x", 3, &["invalid --exclude pattern"]),
    ("ADD short.tar.gz /x", 1, &["cannot unpack \"/short.tar.gz\""]),
    ("ADD short.tar /x", 1, &["cannot unpack \"/short.tar\""]),
    ("ADD whiteout.tar /x", 1, &["x/dir/.wh.gone", "begin with `.wh.`"]),
    ("COPY .wh.name /x/", 1, &["x/.wh.name", "begin with `.wh.`"]),
];
