//! Rules for the sources: no import circles, no long files, no long lists of arguments, no wrapper that forwards only some methods.
//!
//! An import is a `use` of another file of the same crate, or a path in code that leads there. `mod` lines, re-exports, and paths from a
//! module to its own submodules don't count.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemUse, Signature, UseTree, Visibility};

const MAX_LINES: usize = 500;
const MAX_ARGUMENTS: usize = 8;

/// The path of a module from the crate's root.
type ModulePath = Vec<String>;

/// The repository's sources, by path.
struct Sources(BTreeMap<PathBuf, String>);

impl Sources {
    /// Every `.rs` file below a folder, except in hidden folders and `target`.
    fn of(root: &Path) -> Self {
        let (mut files, mut folders) = (BTreeMap::new(), vec![root.to_path_buf()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy();
                if path.is_dir() && !name.starts_with('.') && name != "target" {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = fs::read_to_string(&path).unwrap();
                    files.insert(path.strip_prefix(root).unwrap().to_path_buf(), text);
                }
            }
        }
        Self(files)
    }

    fn from_texts(texts: &[(&str, &str)]) -> Self {
        Self(texts.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect())
    }

    fn parsed(&self, path: &Path) -> syn::File {
        syn::parse_file(&self.0[path]).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The files with more than [`MAX_LINES`] lines.
    fn long_files(&self) -> Vec<String> {
        let long = |(path, text): (&PathBuf, &String)| {
            let lines = text.lines().count();
            (lines > MAX_LINES).then(|| format!("{}: {lines} lines", path.display()))
        };
        self.0.iter().filter_map(long).collect()
    }

    /// The functions with more than [`MAX_ARGUMENTS`] arguments, except for launches of kernels.
    fn long_signatures(&self) -> Vec<String> {
        let mut found = Vec::new();
        for path in self.0.keys() {
            let mut signatures = Signatures { path, found: &mut found };
            signatures.visit_file(&self.parsed(path));
        }
        found
    }

    /// The implementations of a trait by types that hold another implementation of it, each with the methods that it does not forward.
    fn partial_wrappers(&self, name: &str) -> Vec<String> {
        let (mut methods, mut wrappers) = (BTreeSet::new(), Vec::new());
        for path in self.0.keys() {
            let mut file = Implementations { name, methods: BTreeSet::new(), holders: BTreeSet::new(), found: Vec::new() };
            file.visit_file(&self.parsed(path));
            methods.append(&mut file.methods);
            let holders = file.holders;
            wrappers.extend(file.found.into_iter().filter(|found| holders.contains(&found.0)).map(|found| (path, found)));
        }
        let left = |(path, (kind, own)): (&PathBuf, (String, BTreeSet<String>))| {
            let left: Vec<&str> = methods.difference(&own).map(String::as_str).collect();
            (!left.is_empty()).then(|| format!("{}: {kind} does not forward {}", path.display(), left.join(", ")))
        };
        wrappers.into_iter().filter_map(left).collect()
    }

    /// The roots of crates: libraries, programs, integration tests, examples, benchmarks, build scripts.
    fn roots(&self) -> impl Iterator<Item = &Path> {
        self.0.keys().map(PathBuf::as_path).filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            let parent = path.parent().unwrap();
            let holds_crates =
                |folder: &Path| ["bin", "tests", "examples", "benches"].iter().any(|name| folder.ends_with(name));
            match name {
                "lib.rs" | "build.rs" => true,
                "main.rs" => parent.ends_with("src") || parent.parent().is_some_and(holds_crates),
                // Not a module named `tests`.
                _ => holds_crates(parent) && !self.0.contains_key(&parent.join("mod.rs")),
            }
        })
    }

    /// The files of a crate, each with the files that it imports.
    fn imports(&self, root: &Path) -> BTreeMap<PathBuf, BTreeSet<PathBuf>> {
        let mut files = BTreeMap::from([(ModulePath::new(), root.to_path_buf())]);
        let mut uses = Vec::new();
        let mut queue = VecDeque::from([(ModulePath::new(), root.to_path_buf())]);
        while let Some((module, path)) = queue.pop_front() {
            // Modules of a root or a `mod.rs` are beside it, those of another file in a folder with its name.
            let folder = path.parent().unwrap();
            let owns_folder = module.is_empty() || path.file_name().unwrap() == "mod.rs";
            let folder = if owns_folder { folder.to_path_buf() } else { folder.join(path.file_stem().unwrap()) };
            let mut reader = Reader { module: module.clone(), ..Reader::default() };
            reader.visit_file(&self.parsed(&path));
            uses.extend(reader.imports().into_iter().map(|(inner, used)| (path.clone(), inner, used)));
            for child in reader.modules {
                let within: PathBuf = child[module.len()..].iter().collect();
                let places = [folder.join(&within).with_extension("rs"), folder.join(&within).join("mod.rs")];
                if let Some(place) = places.into_iter().find(|place| self.0.contains_key(place)) {
                    files.insert(child.clone(), place.clone());
                    queue.push_back((child, place));
                }
            }
        }
        let mut imports: BTreeMap<PathBuf, BTreeSet<PathBuf>> =
            files.values().map(|file| (file.clone(), BTreeSet::new())).collect();
        for (file, module, used) in uses {
            if let Some(target) = resolve(&files, &module, &used).filter(|target| *target != file) {
                imports.entry(file).or_default().insert(target);
            }
        }
        imports
    }

    /// A shortest circle in each group of files that import each other, in the order of the imports.
    fn circles(&self) -> Vec<String> {
        let mut found = BTreeSet::new();
        for root in self.roots() {
            let imports = self.imports(root);
            let mut seen = BTreeSet::new();
            for start in imports.keys() {
                if let Some(circle) = shortest_circle(&imports, start).filter(|circle| !seen.contains(&circle[0])) {
                    seen.extend(circle.iter().cloned());
                    let names: Vec<_> = circle.iter().map(|path| path.display().to_string()).collect();
                    found.insert(format!("{} -> {}", names.join(" -> "), names[0]));
                }
            }
        }
        found.into_iter().collect()
    }
}

/// The file that a path leads to: the file of its innermost module.
fn resolve(files: &BTreeMap<ModulePath, PathBuf>, module: &ModulePath, used: &[String]) -> Option<PathBuf> {
    let mut at = module.clone();
    let mut rest = used;
    match rest.first()?.as_str() {
        "crate" => at.clear(),
        "self" => {}
        "super" => {
            at.pop();
        }
        // A submodule, or another crate.
        first => {
            at.push(first.to_owned());
            files.get(&at)?;
        }
    }
    rest = &rest[1..];
    while rest.first().is_some_and(|name| name == "super") {
        at.pop();
        rest = &rest[1..];
    }
    for name in rest {
        at.push(name.clone());
        if !files.keys().any(|module| module.starts_with(&at)) {
            at.pop();
            break;
        }
    }
    // An inline module is in the file of its parent.
    while !files.contains_key(&at) {
        at.pop();
    }
    files.get(&at).cloned()
}

/// A shortest path from a file back to itself.
fn shortest_circle(imports: &BTreeMap<PathBuf, BTreeSet<PathBuf>>, start: &Path) -> Option<Vec<PathBuf>> {
    let mut before = BTreeMap::<&Path, &Path>::new();
    let mut queue = VecDeque::from([start]);
    while let Some(file) = queue.pop_front() {
        for next in imports.get(file)? {
            if next == start {
                let mut circle = vec![file.to_path_buf()];
                let mut at = file;
                while at != start {
                    at = before[at];
                    circle.push(at.to_path_buf());
                }
                circle.reverse();
                return Some(circle);
            }
            if !before.contains_key(next.as_path()) {
                before.insert(next, file);
                queue.push_back(next);
            }
        }
    }
    None
}

/// Collects what a file imports, and the modules it declares.
#[derive(Default)]
struct Reader {
    module: ModulePath,
    /// Imported names, each with the module that imports it.
    uses: Vec<(ModulePath, String, Vec<String>)>,
    /// Paths in code, each with its module.
    paths: Vec<(ModulePath, Vec<String>)>,
    modules: Vec<ModulePath>,
}

impl Reader {
    fn bring(&mut self, name: &syn::Ident, path: Vec<String>) {
        self.uses.push((self.module.clone(), name.to_string(), path));
    }

    fn add(&mut self, tree: &UseTree, prefix: &[String]) {
        let with = |name: &syn::Ident| [prefix, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.add(&path.tree, &with(&path.ident)),
            UseTree::Name(name) if name.ident == "self" => {
                let last = prefix.last().map(String::as_str).unwrap_or_default();
                self.uses.push((self.module.clone(), last.to_owned(), prefix.to_vec()));
            }
            UseTree::Name(name) => self.bring(&name.ident, with(&name.ident)),
            UseTree::Rename(rename) if rename.ident == "self" => self.bring(&rename.rename, prefix.to_vec()),
            UseTree::Rename(rename) => self.bring(&rename.rename, with(&rename.ident)),
            UseTree::Glob(_) => self.uses.push((self.module.clone(), "*".to_owned(), prefix.to_vec())),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.add(tree, prefix)),
        }
    }

    /// The targets of `use` lines, and of paths in code that begin with `crate`, `super` or an imported name.
    fn imports(&self) -> Vec<(ModulePath, Vec<String>)> {
        let mut imports: Vec<_> = self.uses.iter().map(|(module, _, path)| (module.clone(), path.clone())).collect();
        for (module, path) in &self.paths {
            let brought = self.uses.iter().find(|(inner, name, _)| inner == module && *name == path[0]);
            if let Some((_, _, whole)) = brought {
                imports.push((module.clone(), [whole, &path[1..]].concat()));
            } else if path[0] == "crate" || path[0] == "super" {
                imports.push((module.clone(), path.clone()));
            }
        }
        imports
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        self.module.push(item.ident.to_string());
        match item.content {
            Some(_) => visit::visit_item_mod(self, item),
            None => self.modules.push(self.module.clone()),
        }
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        // A path that begins with `::` is in another crate.
        if matches!(item.vis, Visibility::Inherited) && item.leading_colon.is_none() {
            self.add(&item.tree, &[]);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 && path.leading_colon.is_none() {
            let names = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.paths.push((self.module.clone(), names));
        }
        visit::visit_path(self, path);
    }
}

/// Collects the functions with too many arguments.
struct Signatures<'a> {
    path: &'a Path,
    found: &'a mut Vec<String>,
}

impl Signatures<'_> {
    fn check(&mut self, attributes: &[Attribute], signature: &Signature) {
        let arguments = signature.inputs.len();
        if arguments > MAX_ARGUMENTS && !attributes.iter().any(launches) {
            self.found.push(format!("{}: {} has {arguments} arguments", self.path.display(), signature.ident));
        }
    }
}

/// Whether an attribute such as `#[cube(launch)]` makes a function the launch of a kernel.
fn launches(attribute: &Attribute) -> bool {
    let tokens = attribute.meta.require_list().map(|list| list.tokens.to_string()).unwrap_or_default();
    attribute.path().is_ident("cube") && tokens.starts_with("launch")
}

impl<'ast> Visit<'ast> for Signatures<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if let Item::Fn(function) = item {
            self.check(&function.attrs, &function.sig);
        }
        visit::visit_item(self, item);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.check(&function.attrs, &function.sig);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        self.check(&function.attrs, &function.sig);
        visit::visit_trait_item_fn(self, function);
    }
}

/// Collects the methods of a trait, the types that hold an implementation of it, and those that implement it.
struct Implementations<'a> {
    name: &'a str,
    methods: BTreeSet<String>,
    holders: BTreeSet<String>,
    /// Each type with the methods that it has.
    found: Vec<(String, BTreeSet<String>)>,
}

impl Implementations<'_> {
    fn is_named(&self, path: &syn::Path) -> bool {
        path.segments.last().is_some_and(|segment| segment.ident == self.name)
    }
}

/// The bounds of types and generics.
#[derive(Default)]
struct Bounds(BTreeSet<String>);

impl<'ast> Visit<'ast> for Bounds {
    fn visit_trait_bound(&mut self, bound: &'ast syn::TraitBound) {
        self.0.extend(bound.path.segments.last().map(|segment| segment.ident.to_string()));
    }
}

impl<'ast> Visit<'ast> for Implementations<'_> {
    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        if item.ident == self.name {
            self.methods.extend(item.items.iter().filter_map(|item| match item {
                syn::TraitItem::Fn(function) => Some(function.sig.ident.to_string()),
                _ => None,
            }));
        }
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        let mut bounds = Bounds::default();
        bounds.visit_item_struct(item);
        if bounds.0.contains(self.name) {
            self.holders.insert(item.ident.to_string());
        }
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let of_trait = item.trait_.as_ref().is_some_and(|(_, path, _)| self.is_named(path));
        let syn::Type::Path(kind) = &*item.self_ty else { return };
        let Some(kind) = kind.path.segments.last().map(|segment| segment.ident.to_string()).filter(|_| of_trait) else {
            return;
        };
        let mut bounds = Bounds::default();
        bounds.visit_generics(&item.generics);
        if bounds.0.contains(self.name) {
            self.holders.insert(kind.clone());
        }
        let methods = item.items.iter().filter_map(|item| match item {
            syn::ImplItem::Fn(function) => Some(function.sig.ident.to_string()),
            _ => None,
        });
        self.found.push((kind, methods.collect()));
    }
}

/// The sources of this repository.
fn ours() -> Sources {
    let sources = Sources::of(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap());
    assert!(sources.0.contains_key(Path::new("kernels/src/lib.rs")), "the sources are not where they are looked for");
    sources
}

#[track_caller]
fn none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

#[test]
fn no_file_imports_in_a_circle() {
    none("files that import each other", &ours().circles());
}

#[test]
fn no_file_is_long() {
    none("files over 500 lines", &ours().long_files());
}

#[test]
fn no_function_has_many_arguments() {
    none("functions over 8 arguments", &ours().long_signatures());
}

#[test]
fn wrappers_of_checkpoints_forward_every_method() {
    none("wrappers that leave methods to their defaults", &ours().partial_wrappers("Checkpoint"));
}

#[test]
fn wrappers_that_leave_methods_are_found() {
    let text = "trait T { fn a(&self); fn b(&self) {} }
        struct Leaf(u8); impl T for Leaf { fn a(&self) {} }
        struct Whole(Box<dyn T>); impl T for Whole { fn a(&self) {} fn b(&self) {} }
        mod inner { struct Part<'a> { t: &'a dyn T } impl super::T for Part<'_> { fn a(&self) {} } }
        struct Other(Box<dyn T>); impl Clone for Other { fn clone(&self) -> Self { panic!() } }
        impl<X: T + ?Sized> T for Arc<X> { fn b(&self) {} }";
    let expected = ["a/src/lib.rs: Part does not forward b", "a/src/lib.rs: Arc does not forward a"];
    assert_eq!(Sources::from_texts(&[("a/src/lib.rs", text)]).partial_wrappers("T"), expected);
}

#[test]
fn circles_are_found_through_every_kind_of_path() {
    let circles = |texts: &[(&str, &str)]| Sources::from_texts(texts).circles();
    let lib = ("a/src/lib.rs", "mod one; mod two; pub use one::One;");
    let one = ("a/src/one.rs", "use crate::two::Two;");
    for none in ["", "use ::one::One;", "fn f() { ::one::g(); }"] {
        assert_eq!(circles(&[lib, one, ("a/src/two.rs", none)]), Vec::<String>::new(), "{none}");
    }
    for back in ["use super::one::One;", "use crate::{one};", "fn f() { use crate::one::{self as other, One}; }"] {
        assert_eq!(circles(&[lib, one, ("a/src/two.rs", back)]), ["a/src/one.rs -> a/src/two.rs -> a/src/one.rs"], "{back}");
    }
    // Through an imported module, and without an import.
    for back in ["use crate::one; fn f() { one::g(); }", "fn f() { crate::one::g(); }", "fn f(_: super::one::One) {}"] {
        assert_eq!(circles(&[lib, one, ("a/src/two.rs", back)]), ["a/src/one.rs -> a/src/two.rs -> a/src/one.rs"], "{back}");
    }
    // A re-exported name belongs to the root, which imports nothing.
    assert_eq!(circles(&[lib, one, ("a/src/two.rs", "use crate::One;")]), Vec::<String>::new());
    // An inline module belongs to its file.
    let inline = ("a/src/two.rs", "mod tests { use super::*; use crate::two::Two; }");
    assert_eq!(circles(&[lib, one, inline]), Vec::<String>::new());
}

#[test]
fn circles_are_found_between_a_module_and_those_within() {
    let texts = [
        ("a/src/main.rs", "mod outer;"),
        ("a/src/outer/mod.rs", "mod inner; use inner::deep::X;"),
        ("a/src/outer/inner.rs", "mod deep;"),
        ("a/src/outer/inner/deep.rs", "use super::super::Y;"),
    ];
    let circle = "a/src/outer/inner/deep.rs -> a/src/outer/mod.rs -> a/src/outer/inner/deep.rs";
    assert_eq!(Sources::from_texts(&texts).circles(), [circle]);
    for parts in ["mod inner; pub use inner::deep::X;", "mod inner; fn f() { inner::deep::f(); }"] {
        let outer = ("a/src/outer/mod.rs", parts);
        assert_eq!(Sources::from_texts(&[texts[0], outer, texts[2], texts[3]]).circles(), Vec::<String>::new(), "{parts}");
    }
}

#[test]
fn crates_with_files_of_the_same_name_are_apart() {
    let texts = [
        ("a/src/lib.rs", "mod one; mod two;"),
        ("a/src/one.rs", "use crate::two::X;"),
        ("a/src/two.rs", ""),
        ("b/src/lib.rs", "mod one; mod two;"),
        ("b/src/one.rs", ""),
        ("b/src/two.rs", "use crate::one::X;"),
        ("b/tests/check.rs", "mod shared; use shared::x;"),
        ("b/tests/shared/mod.rs", "use super::y;"),
    ];
    let circle = "b/tests/check.rs -> b/tests/shared/mod.rs -> b/tests/check.rs";
    assert_eq!(Sources::from_texts(&texts).circles(), [circle]);
}

#[test]
fn long_files_and_signatures_are_found() {
    let nine = "a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: u8, i: u8";
    let text = format!(
        "fn long({nine}) {{}}\nfn eight(a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: u8) {{}}\n#[cube(launch_unchecked)]\nfn \
         kernel({nine}) {{}}\n#[cube]\nfn device({nine}) {{}}\nimpl S {{ fn method({nine}) {{}} }}\ntrait T {{ fn asked({nine}); }}\n\
         fn outer() {{ fn inner({nine}) {{}} }}"
    );
    let sources = Sources::from_texts(&[("a/src/lib.rs", &text)]);
    let expected =
        ["long", "device", "method", "asked", "inner"].map(|name| format!("a/src/lib.rs: {name} has 9 arguments"));
    assert_eq!(sources.long_signatures(), expected);
    assert_eq!(sources.long_files(), Vec::<String>::new());
    let lines = "\n".repeat(501);
    assert_eq!(Sources::from_texts(&[("a/src/lib.rs", &lines)]).long_files(), ["a/src/lib.rs: 501 lines"]);
}
