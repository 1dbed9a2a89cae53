package node_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/debrepo"
	"github.com/keystead/keystead/internal/rpmrepo"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/refval"
	"github.com/keystead/keystead/refval/deb"
	"github.com/keystead/keystead/refval/rpm"
)

// effective returns the effective entries on a subject that the ledger has.
func (f *field) effective(kind, subject string) (n int) {
	f.t.Helper()
	s, err := f.client("").Status(f.ctx)
	if err != nil {
		f.t.Fatal(err)
	}
	err = f.client("").Tail(f.ctx, 0, s.GetTreeSize(), func(e *apiv1.Entry) bool {
		x, err := ledger.ParseEffective(e.GetEntry())
		if err == nil && x.Verdict.Type == kind && x.Verdict.Subject == subject {
			n++
		}
		return true
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return n
}

// TestLyingNode has a node propose and endorse an admission for evidence that does not
// pass: no other node endorses it, and no receipt of it can exist.
func TestLyingNode(t *testing.T) {
	t.Parallel()
	f := newField(t, 3, "trust-disks=true")
	liar := f.leader(0)
	if err := f.end(liar, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	f.nodes[liar].env = []string{lieEnv + "=1"}
	f.start(liar)
	f.whole(0, 1, 2)
	bad := f.host("bad")
	if err := f.enrol("bad", bad.ek); err != nil {
		t.Fatal(err)
	}
	if err := bad.connect(); err != nil { // good as yet, so that every node knows its key
		t.Fatal(err)
	}
	bad.goBad()
	bundle, tick, err := bad.answer(evidence.PurposeAdmission)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.client("").PutObject(f.ctx, bundle); err != nil {
		t.Fatal(err)
	}
	digest := keystead.Sum(bundle)
	p := ledger.Proposal{ID: [16]byte(client.NewRequestID()), Type: admit.TypeLease, Subject: "bad", Inputs: []keystead.Digest{digest}, Content: applicationOf(digest, tick)}
	entry, err := p.Entry()
	if err != nil {
		t.Fatal(err)
	}
	for i := range f.nodes {
		ctx, cancel := context.WithTimeout(f.ctx, 20*time.Second)
		as := liar
		if i == liar { // one TPM does not serve both sides at once
			as = (liar + 1) % 3
		}
		conn, err := f.asNode(as, i)
		if err != nil {
			t.Fatal(err)
		}
		err = f.handOver(ctx, conn, entry)
		cancel()
		demand(t, "a node asked to endorse", err, keystead.ReasonFileAltered)
		if i != liar {
			continue
		}
		var deny *keystead.DenyError
		if !errors.As(err, &deny) || len(deny.Findings) != 2 {
			t.Fatalf("the liar answers %v", err)
		}
		for _, finding := range deny.Findings { // the liar has nothing against it: these are the others' own
			if node, _, _ := strings.Cut(finding.Where, ": /usr/bin/whoami"); finding.Reason != keystead.ReasonFileAltered || node == "node "+f.nodes[liar].place.Name || !strings.HasPrefix(node, "node n") {
				t.Errorf("the liar hands on %v", finding)
			}
		}
	}
	if n := f.effective(admit.TypeLease, "bad"); n != 0 {
		t.Errorf("%d effective entries admit the host", n)
	}
	// That it is in the log as a proposal proves nothing: it is no leaf.
	if kind, _, _ := receipt.Split(entry); kind.Provable() {
		t.Error("a proposal is in the tree")
	}
}

// cupboard is a domain, and the bytes of a repository with one package.
type cupboard struct {
	*field
	vendor *debrepo.Signer
	recipe *deb.Recipe
	set    *refval.Set
	bytes  map[keystead.Digest][]byte
}

func newCupboard(t *testing.T, f *field) *cupboard {
	t.Helper()
	at := time.Now().Add(-time.Hour).Truncate(time.Second)
	c := &cupboard{field: f, vendor: debrepo.NewSigner("vendor", at.Add(-time.Hour), 0), bytes: map[keystead.Digest][]byte{}}
	repo := debrepo.Repository{Suite: "stable", Date: at, Signers: []*debrepo.Signer{c.vendor}, Packages: []debrepo.Package{{Name: "tool", Version: "1.0", Architecture: "amd64",
		Deb: debrepo.Deb(".gz", tar.Header{Name: "./usr/bin/tool", Typeflag: tar.TypeReg, Mode: 0o755, Uname: "tool"})}}}
	files := repo.Files()
	c.recipe = &deb.Recipe{At: at.Add(time.Minute).UTC(), Selection: refval.SelectAll,
		Repositories: []deb.RecipeRepository{{Keyring: c.keep(c.vendor.Public()), Suite: "stable", InRelease: c.keep(files["dists/stable/InRelease"]),
			Indexes: []deb.RecipeIndex{{Name: debrepo.IndexName + ".gz", Pieces: c.keep(files["dists/stable/"+debrepo.IndexName+".gz"])}}}},
		Packages: []deb.RecipePackage{{Name: deb.Name{Package: "tool", Version: "1.0", Architecture: "amd64"}, Pieces: c.keep(repo.Packages[0].Deb)}}}
	var err error
	if c.set, err = deb.Rebuild(c.recipe, func(d keystead.Digest) ([]byte, error) { return c.bytes[d], nil }); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *cupboard) keep(b []byte) deb.Pieces {
	c.bytes[keystead.Sum(b)] = b
	return deb.Pieces{keystead.Sum(b)}
}

// offer hands in everything and has the member propose a set by a recipe.
func (c *cupboard) offer(set []byte, recipe interface{ Text() []byte }, without ...keystead.Digest) error {
	c.t.Helper()
	all := map[keystead.Digest][]byte{keystead.Sum(set): set, keystead.Sum(recipe.Text()): recipe.Text()}
	for d, b := range c.bytes {
		all[d] = b
	}
	for _, d := range without {
		delete(all, d)
	}
	for _, b := range all {
		if _, err := c.client("n1").PutObject(c.ctx, b); err != nil { // the others fetch it
			c.t.Fatal(err)
		}
	}
	d := keystead.Sum(set)
	o := admit.Object{Domain: c.digest, Digest: d, Base: c.version(admit.TypeObject, d.String()), Kind: admit.ObjectReferences,
		Recipe: []admit.Ingredient{{Role: admit.IngredientRecipe, Digest: keystead.Sum(recipe.Text())}}}
	text, err := o.Text()
	if err != nil {
		c.t.Fatal(err)
	}
	note, err := c.member.Sign(text)
	if err != nil {
		c.t.Fatal(err)
	}
	p := ledger.Proposal{ID: [16]byte(client.NewRequestID()), Type: admit.TypeObject, Subject: d.String(), Content: note}
	entry, err := p.Entry()
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(c.ctx, 20*time.Second)
	defer cancel()
	_, err = c.client("n1").Submit(ctx, entry, nil)
	return err
}

// TestReferenceSets proposes a reference set that its recipe gives, and some that none
// gives: those nobody endorses, and there is no effective entry of them.
func TestReferenceSets(t *testing.T) {
	t.Parallel()
	f := &field{cluster: found(t, 3, loopback, "trust-disks=true")}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	f.ctx = ctx
	f.startAll()
	f.whole(0, 1, 2)
	c := newCupboard(t, f)
	c.recipe.At = time.Now().Add(5 * time.Second).UTC().Truncate(time.Second) // built just now, where the clock is a bit ahead
	if err := c.offer(c.set.Bytes(), c.recipe); err != nil {
		t.Fatal(err)
	}
	if n := f.effective(admit.TypeObject, c.set.Digest().String()); n != 1 {
		t.Errorf("%d effective entries of the good set", n)
	}
	for _, name := range []string{"n1", "n2", "n3"} { // all have it, though one was given it
		if b, err := f.client(name).GetObject(f.ctx, c.set.Digest()); err != nil || !bytes.Equal(b, c.set.Bytes()) {
			t.Errorf("%s: %v", name, err)
		}
	}

	altered := bytes.Replace(c.set.Bytes(), digestBytes("tool"), digestBytes("evil"), 1)
	demand(t, "a set with one digest altered", c.offer(altered, c.recipe), keystead.ReasonObjectMismatch)

	stranger := debrepo.NewSigner("stranger", time.Now().Add(-3*time.Hour), 0)
	forged := *c.recipe
	forged.Repositories = []deb.RecipeRepository{c.recipe.Repositories[0]}
	forged.Repositories[0].Keyring = c.keep(stranger.Public())
	other := setOf(t, c, "wrongly signed")
	demand(t, "an InRelease that the keyring did not sign", c.offer(other, &forged), keystead.ReasonIndexUnsigned)

	lacking := *c.recipe
	lacking.Packages = []deb.RecipePackage{{Name: c.recipe.Packages[0].Name, Pieces: deb.Pieces{keystead.Sum([]byte("nobody has this"))}}}
	another := setOf(t, c, "missing")
	demand(t, "a recipe whose package nobody has", c.offer(another, &lacking), keystead.ReasonObjectMissing)

	future := *c.recipe
	future.At = time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	ahead := setOf(t, c, "ahead")
	demand(t, "a recipe of the future", c.offer(ahead, &future), keystead.ReasonIndexFuture)
	acme, raw := c.headers("good", "vendor")
	if err := c.offer(raw, acme); err != nil {
		t.Fatal(err)
	}
	if n := f.effective(admit.TypeObject, keystead.Sum(raw).String()); n != 1 {
		t.Errorf("%d effective entries of a set of headers", n)
	}
	strange, _ := c.headers("bad", "stranger")
	strange.Vendors = acme.Vendors // whom the stranger is none of
	foreign := setOf(t, c, "foreign")
	demand(t, "a header that the vendor did not sign", c.offer(foreign, strange), keystead.ReasonPackageForeign)
	for _, set := range [][]byte{altered, other, another, ahead, foreign} {
		if n := f.effective(admit.TypeObject, keystead.Sum(set).String()); n != 0 {
			t.Errorf("%d effective entries of a bad set", n)
		}
	}
}

// headers has rpm's tools make a package, and returns the recipe of it and its set.
func (c *cupboard) headers(name, signer string) (*rpm.Recipe, []byte) {
	c.t.Helper()
	dir := c.t.TempDir()
	b, err := rpmrepo.New(dir)
	if err != nil {
		c.t.Fatal(err)
	}
	s, err := b.Signer(signer, "ed25519")
	if err != nil {
		c.t.Fatal(err)
	}
	defer s.Close()
	public, err := s.Public()
	if err != nil {
		c.t.Fatal(err)
	}
	file, err := b.Build(rpmrepo.Package{Name: name, Version: "1", Release: "1", Files: map[string]string{"/usr/bin/" + name: "#!/bin/sh\n"}}, s)
	if err != nil {
		c.t.Fatal(err)
	}
	root := filepath.Join(dir, "root")
	if err := b.Install(root, file); err != nil {
		c.t.Fatal(err)
	}
	database, err := os.ReadFile(filepath.Join(root, "var/lib/rpm/rpmdb.sqlite"))
	if err != nil {
		c.t.Fatal(err)
	}
	journal, err := os.ReadFile(filepath.Join(root, "var/lib/rpm/rpmdb.sqlite-wal"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.t.Fatal(err)
	}
	packed, err := rpm.Pack(rpm.Headers(database, journal))
	if err != nil {
		c.t.Fatal(err)
	}
	r := &rpm.Recipe{At: time.Now().Add(5 * time.Second).UTC().Truncate(time.Second), Selection: refval.SelectAll,
		Vendors: []rpm.RecipeVendor{{Name: "acme", Packages: []string{"*"}, Key: c.keep(public)[0]}}, Headers: c.keep(packed)}
	set, err := r.Rebuild(func(d keystead.Digest) ([]byte, error) { return c.bytes[d], nil })
	if err != nil {
		c.t.Fatal(err)
	}
	return r, set.Bytes()
}

func digestBytes(s string) []byte { d := keystead.Sum([]byte(s)); return d[:] }

// setOf returns a well-formed set that no recipe gives.
func setOf(t *testing.T, c *cupboard, content string) []byte {
	t.Helper()
	b := refval.NewBuilder(refval.SelectAll)
	h := c.set.Header()
	if err := b.Add(h.Packages[0], h.Repositories, []refval.File{{Path: "/usr/bin/tool", Digest: keystead.Sum([]byte(content))}}); err != nil {
		t.Fatal(err)
	}
	s, err := b.Set()
	if err != nil {
		t.Fatal(err)
	}
	return s.Bytes()
}
