package appraise_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/pgp"
	"github.com/keystead/keystead/internal/rpmrepo"
	"github.com/keystead/keystead/refval"
	"github.com/keystead/keystead/refval/rpm"
)

// rpmHost is a machine whose packages rpm's own tools made and signed, each with one
// script in /usr/bin that bears its name.
type rpmHost struct {
	vendor, stranger []byte // certificates
	list             []byte // packed headers of all packages
	old              []byte // the same with good in version 1.0
}

func script(name, version string) string { return "#!/bin/sh\necho " + name + " " + version + "\n" }

var madeHost = sync.OnceValues(func() (h *rpmHost, err error) {
	dir, err := os.MkdirTemp("", "rpm-host-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	h = &rpmHost{}
	bench, err := rpmrepo.New(dir)
	if err != nil {
		return nil, err
	}
	signers := map[string]*rpmrepo.Signer{}
	for name, to := range map[string]*[]byte{"vendor": &h.vendor, "stranger": &h.stranger} {
		s, err := bench.Signer(name, "rsa2048")
		if err != nil {
			return nil, err
		}
		defer s.Close()
		signers[name] = s
		armoured, err := s.Public()
		if err != nil {
			return nil, err
		}
		keys, err := pgp.ParseKeyring(armoured)
		if err != nil {
			return nil, err
		}
		if *to, err = keys.Bytes(); err != nil {
			return nil, err
		}
	}
	build := func(name, version string, s *rpmrepo.Signer, defines ...string) string {
		var file string
		if err == nil {
			file, err = bench.Build(rpmrepo.Package{Name: name, Version: version, Release: "1", Files: map[string]string{"/usr/bin/" + name: script(name, version)}}, s, defines...)
		}
		return file
	}
	all := []string{build("good", "2.0", signers["vendor"]), build("foreign", "1.0", signers["stranger"]), build("unsigned", "1.0", nil), build("weak", "1.0", signers["vendor"], "_binary_filedigest_algorithm 1")}
	older := slices.Clone(all)
	older[0] = build("good", "1.0", signers["vendor"])
	for files, to := range map[*[]string]*[]byte{&all: &h.list, &older: &h.old} {
		root, merr := os.MkdirTemp(dir, "root-")
		if err == nil {
			err = merr
		}
		if err == nil {
			err = bench.Install(root, *files...)
		}
		var raw []byte
		if err == nil {
			raw, err = os.ReadFile(filepath.Join(root, "var/lib/rpm/rpmdb.sqlite"))
		}
		if err == nil {
			*to, err = rpm.Pack(rpm.Headers(raw, nil))
		}
	}
	return h, err
})

func theHost(t testing.TB) *rpmHost {
	t.Helper()
	h, err := madeHost()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// trusting returns the recorded machine's code set with vendors and IMA keys.
func trusting(t testing.TB, vendors []refval.Vendor, keys ...refval.IMAKey) *refval.CodeSet {
	t.Helper()
	c, err := record().codes.WithTrust(vendors, keys)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// ran is the record of a script that ran.
func ran(name, version string) []byte {
	d := keystead.Sum([]byte(script(name, version)))
	return measured("sha256", d[:], "/usr/bin/"+name)
}

// input is evidence of the host after it ran the files, judged with the vendor accepted
// for the packages, and no reference set.
func (h *rpmHost) input(t testing.TB, list []byte, packages string, ima ...[]byte) appraise.Input {
	t.Helper()
	f := newForger(t)
	in := f.input(t, machine{ima: ima})
	parts := in.Bundle.Parts()
	parts.Packages = &evidence.PackageList{Format: evidence.FormatRPMHeaders, Data: list}
	in.Bundle = bundle(t, parts)
	in.References = nil
	in.CodeSets = []*refval.CodeSet{trusting(t, []refval.Vendor{{Name: "acme", Format: refval.FormatRPM, Packages: strings.Split(packages, ","), Key: h.vendor}})}
	in.Time = time.Now().Add(time.Hour)
	return in
}

// TestRPMHost: a machine whose package database proves itself, without any reference set.
func TestRPMHost(t *testing.T) {
	h := theHost(t)
	in := h.input(t, h.list, "*", ran("good", "2.0"))
	demand(t, "a signed package's file", in)
	c := appraise.Appraise(in).Claims()
	if c.Software.Named != 1 || c.Software.SignedHeader != 1 || !slices.Equal(c.Software.Packages, []string{"good=2.0-1"}) {
		t.Errorf("software: %+v", c.Software)
	}
	if p := c.Packages; p.Format != evidence.FormatRPMHeaders || p.Listed != 4 || p.Proven != 2 || !slices.Equal(p.Unproven, []string{"foreign=1.0-1", "unsigned=1.0-1"}) {
		t.Errorf("packages: %+v", p)
	}
	in.Memory = appraise.NewMemory(1, 1<<30)
	want := appraise.Appraise(in).Bytes()
	for _, at := range []time.Time{in.Time, time.Unix(1e9, 0), in.Time} { // before the signatures were made, too
		warm, cold := in, in
		warm.Time, cold.Time, cold.Memory = at, at, nil
		if string(appraise.Appraise(warm).Bytes()) != string(appraise.Appraise(cold).Bytes()) {
			t.Errorf("at %v a memory changes the verdict", at)
		}
	}
	if string(appraise.Appraise(in).Bytes()) != string(want) {
		t.Error("a second appraisal comes to another verdict")
	}
	in.Time = time.Unix(1e9, 0)
	demand(t, "judged before it was signed", in, keystead.ReasonPackageForeign)
}

// TestRPMLies: what root on the host may do to its rpm database, each with its reason.
// refval/rpm tests what can be done to a header; here is what becomes of the machine.
func TestRPMLies(t *testing.T) {
	h := theHost(t)
	edited := repack(t, h.list, func(i int, blob []byte) []byte {
		d := keystead.Sum([]byte(script("good", "2.0")))
		evil := keystead.Sum([]byte("evil"))
		return []byte(strings.Replace(string(blob), hexOf(d), hexOf(evil), 1))
	})
	trailing := repack(t, h.list, func(i int, blob []byte) []byte { return append(slices.Clone(blob), "hidden"...) })
	evil := keystead.Sum([]byte("evil"))
	for name, tc := range map[string]struct {
		list     []byte
		packages string
		ima      []byte
		want     []keystead.Reason
		where    string
	}{
		"a digest edited":             {edited, "*", measured("sha256", evil[:], "/usr/bin/good"), []keystead.Reason{keystead.ReasonHeaderAltered, keystead.ReasonHeaderAltered}, "good=2.0-1:x86_64"},
		"bytes hidden":                {trailing, "*", nil, []keystead.Reason{keystead.ReasonHeaderAmbiguous, keystead.ReasonHeaderAmbiguous, keystead.ReasonHeaderAmbiguous, keystead.ReasonHeaderAmbiguous}, ""},
		"an unsigned package":         {h.list, "*", ran("unsigned", "1.0"), []keystead.Reason{keystead.ReasonPackageUnsigned}, "/usr/bin/unsigned"},
		"a stranger's package":        {h.list, "*", ran("foreign", "1.0"), []keystead.Reason{keystead.ReasonPackageForeign}, "/usr/bin/foreign"},
		"MD5 digests":                 {h.list, "*", ran("weak", "1.0"), []keystead.Reason{keystead.ReasonDigestWeak}, "/usr/bin/weak"},
		"a vendor's other package":    {h.list, "acme-*,better", ran("good", "2.0"), []keystead.Reason{keystead.ReasonPackageForeign}, "/usr/bin/good"},
		"a file of no package":        {h.list, "*", measured("sha256", evil[:], "/usr/bin/evil"), []keystead.Reason{keystead.ReasonFileUnknown}, "/usr/bin/evil"},
		"a signed package's, altered": {h.list, "*", measured("sha256", evil[:], "/usr/bin/good"), []keystead.Reason{keystead.ReasonFileAltered}, "/usr/bin/good"},
		"a header left out":           {repack(t, h.list, func(int, []byte) []byte { return nil }), "*", ran("good", "2.0"), []keystead.Reason{keystead.ReasonFileUnknown}, "/usr/bin/good"},
		"a list that ends early":      {h.list[:len(h.list)-9], "*", nil, []keystead.Reason{keystead.ReasonMalformed}, "packages"},
		"a list that is none":         {[]byte("text"), "*", nil, []keystead.Reason{keystead.ReasonMalformed}, "packages"},
	} {
		var files [][]byte
		if tc.ima != nil {
			files = append(files, tc.ima)
		}
		findings := demand(t, name, h.input(t, tc.list, tc.packages, files...), tc.want...)
		if tc.where != "" && !slices.ContainsFunc(findings, func(f keystead.Finding) bool { return f.Where == tc.where }) {
			t.Errorf("%s: no finding is of %s: %v", name, tc.where, findings)
		}
	}
}

// repack changes each header of a packed list; nil leaves it out.
func repack(t testing.TB, list []byte, edit func(i int, blob []byte) []byte) []byte {
	t.Helper()
	out, err := rpm.Pack(func(yield func([]byte, error) bool) {
		i := 0
		for h, err := range rpm.Unpack(list) {
			if err != nil {
				t.Fatal(err)
			}
			if blob := edit(i, h.Bytes()); blob != nil && !yield(blob, nil) {
				return
			}
			i++
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func hexOf(d keystead.Digest) string { return strings.TrimPrefix(d.String(), "sha256:") }

// TestFloors: an old version is genuine, and is refused all the same.
func TestFloors(t *testing.T) {
	h := theHost(t)
	floor := func(lines string) string {
		return strings.Replace(named, "rules none\n", lines+"rules none\n", 1)
	}
	in := h.input(t, h.old, "*", ran("good", "1.0"))
	demand(t, "without a floor", in)
	in.Policy = compile(t, floor("floor rpm good 1.0-1\nfloor deb good 9\nfloor rpm other 9\n"))
	demand(t, "at the floor", in)
	in.Policy = compile(t, floor("floor rpm good 2.0-1\n"))
	findings := demand(t, "below the floor", in, keystead.ReasonPackageOutdated, keystead.ReasonPackageOutdated)
	if f := findings[1]; f.Where != "/usr/bin/good" || f.Want != "good 2.0-1 or later" || !strings.HasSuffix(f.Got, "of package good 1.0-1") {
		t.Errorf("the finding says %+v", f)
	}
	if c := appraise.Appraise(in).Claims(); c.Software.Outdated != 1 || !slices.Equal(c.Packages.Outdated, []string{"good=1.0-1"}) {
		t.Errorf("claims %+v %+v", c.Software, c.Packages)
	}
	// The list is up to date, and what ran before the update is not: an older set still
	// names it.
	in = h.input(t, h.list, "*", ran("good", "1.0"), ran("good", "2.0"))
	p, err := rpm.Prove(rpm.Unpack(h.old), []refval.Vendor{{Name: "acme", Format: refval.FormatRPM, Packages: []string{"*"}, Key: h.vendor}}, refval.SelectExecutable, in.Time)
	if err != nil {
		t.Fatal(err)
	}
	in.References = []*refval.Set{p.Set}
	demand(t, "an old version that a set names", in)
	in.Policy = compile(t, floor("floor rpm good 2.0-1\n"))
	demand(t, "the same under a floor", in, keystead.ReasonPackageOutdated)
	// Debian's list and set.
	in = newForger(t).input(t, machine{})
	in.Policy = compile(t, floor("floor deb coreutils 9.1-1\n"))
	demand(t, "deb, at the floor", in)
	in.Policy = compile(t, floor("floor deb coreutils 9.1-2\n"))
	demand(t, "deb, below the floor", in, keystead.ReasonPackageOutdated)
}

// TestVendorsOfSets: once a code set names vendors of a format, a reference set's
// packages count only as far as one of them signed the index and the package is its own.
func TestVendorsOfSets(t *testing.T) {
	ref := record().set.Ref(0)
	in := newForger(t).input(t, machine{ima: [][]byte{measured("sha256", ref.Digest[:], ref.Source.Path)}})
	demand(t, "no vendors are named", in)
	key := theHost(t).stranger
	in.CodeSets = []*refval.CodeSet{trusting(t, []refval.Vendor{{Name: "third-party", Format: refval.FormatDeb, Packages: []string{"*"}, Key: key}})}
	f := first(demand(t, "another vendor", in, keystead.ReasonPackageForeign))
	if !strings.Contains(f.Got, "of package "+ref.Source.Package) {
		t.Errorf("the finding says %+v", f)
	}
	in.CodeSets = []*refval.CodeSet{trusting(t, []refval.Vendor{{Name: "third-party", Format: refval.FormatRPM, Packages: []string{"*"}, Key: key}})}
	demand(t, "a vendor of another format", in)
}

// digsig is security.ima as evmctl makes it: an RSA signature of version 2.
func digsig(t testing.TB, k *rsa.PrivateKey, hash crypto.Hash, id byte, digest []byte) []byte {
	t.Helper()
	sig, err := rsa.SignPKCS1v15(rand.Reader, k, hash, digest)
	if err != nil {
		t.Fatal(err)
	}
	name := sha1.Sum(x509.MarshalPKCS1PublicKey(&k.PublicKey))
	b := append([]byte{3, 2, id}, name[16:]...)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(sig))), sig...)
}

func imaKey(t testing.TB, name string) (*rsa.PrivateKey, refval.IMAKey) {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return k, refval.IMAKey{Name: name, Key: der}
}

// TestIMASignatures: a file that no package ships, signed by a key of a code set.
func TestIMASignatures(t *testing.T) {
	ours, accepted := imaKey(t, "build-farm")
	theirs, _ := imaKey(t, "stranger")
	d := keystead.Sum([]byte("a program of our own"))
	long := make([]byte, 64)
	short := make([]byte, 20)
	signed := func(alg string, digest, sig []byte, template string) []byte {
		return entry(template, append([]byte(alg+":\x00"), digest...), []byte("/opt/own\x00"), sig)
	}
	good := digsig(t, ours, crypto.SHA256, 4, d[:])
	bad := slices.Clone(good)
	bad[len(bad)-1] ^= 1
	for name, tc := range map[string]struct {
		entry []byte
		want  []keystead.Reason
	}{
		"signed":                        {signed("sha256", d[:], good, "ima-sig"), nil},
		"signed over SHA-512":           {signed("sha512", long, digsig(t, ours, crypto.SHA512, 6, long), "ima-sig"), nil},
		"not signed":                    {signed("sha256", d[:], nil, "ima-sig"), []keystead.Reason{keystead.ReasonFileUnknown}},
		"by a stranger":                 {signed("sha256", d[:], digsig(t, theirs, crypto.SHA256, 4, d[:]), "ima-sig"), []keystead.Reason{keystead.ReasonFileUnknown}},
		"damaged":                       {signed("sha256", d[:], bad, "ima-sig"), []keystead.Reason{keystead.ReasonFileUnknown}},
		"cut off":                       {signed("sha256", d[:], good[:len(good)-1], "ima-sig"), []keystead.Reason{keystead.ReasonFileUnknown}},
		"of another file":               {signed("sha256", long[:32], good, "ima-sig"), []keystead.Reason{keystead.ReasonFileUnknown}},
		"a hash (type 4), no signature": {signed("sha256", d[:], append([]byte{4, 4}, d[:]...), "ima-sig"), []keystead.Reason{keystead.ReasonFileUnknown}},
		"over SHA-1":                    {signed("sha1", short, digsig(t, ours, crypto.SHA1, 2, short), "ima-sig"), []keystead.Reason{keystead.ReasonDigestWeak}},
		"in a field that is another":    {signed("sha256", d[:], good, "ima-ngv2"), []keystead.Reason{keystead.ReasonFileUnknown}},
	} {
		in := newForger(t).input(t, machine{ima: [][]byte{tc.entry}})
		in.CodeSets = []*refval.CodeSet{trusting(t, nil, accepted)}
		demand(t, name, in, tc.want...)
		if c := appraise.Appraise(in).Claims().Software; len(tc.want) == 0 && (c.IMASignature != 1 || c.Named != 1) {
			t.Errorf("%s: %+v", name, c)
		}
	}
	in := newForger(t).input(t, machine{ima: [][]byte{signed("sha256", d[:], good, "ima-sig")}})
	demand(t, "no key is accepted", in, keystead.ReasonFileUnknown)
}

// TestRPMContinuation: a machine whose list proves itself goes on from what was replayed,
// and two whose lists differ share nothing, in one memory.
func TestRPMContinuation(t *testing.T) {
	h := theHost(t)
	memory := appraise.NewMemory(4, 1<<30)
	for _, list := range [][]byte{h.list, h.old} {
		version := map[bool]string{true: "1.0", false: "2.0"}[string(list) == string(h.old)]
		g := grow(t, 0)
		g.in = h.input(t, list, "*")
		g.in.Memory = memory
		g.eventLog = g.in.Bundle.Parts().EventLog
		for range 3 {
			g.ima = append(g.ima, ran("good", version))
		}
		s := g.same(t, g.parts(t, 2, 1), g.begin(t, 1))
		again := g.same(t, g.parts(t, 3, 0), s)
		common, size := s.Shared()
		if also, _ := again.Shared(); also != common || size < 1000 {
			t.Errorf("states of one list share %p and %p, of %d bytes", common, also, size)
		}
		// What the other machine's list alone names.
		other := map[string]string{"1.0": "2.0", "2.0": "1.0"}[version]
		g.ima[2] = ran("good", other)
		v, _ := appraise.Follow(g.input(continued(t, g.parts(t, 3, 0), s.Reference()), s))
		if f := first(v.Findings()); f.Reason != keystead.ReasonFileAltered {
			t.Errorf("%s ran on a machine of %s: %v", other, version, v.Findings())
		}
	}
}

// TestSignatureBelowFloor: an IMA signature makes no file good of which a set says that its
// package is below a floor, be the package's vendor accepted or not.
func TestSignatureBelowFloor(t *testing.T) {
	h := theHost(t)
	farm, accepted := imaKey(t, "build-farm")
	d := keystead.Sum([]byte(script("good", "1.0")))
	in := h.input(t, h.list, "*", entry("ima-sig", append([]byte("sha256:\x00"), d[:]...), []byte("/usr/bin/good\x00"), digsig(t, farm, crypto.SHA256, 4, d[:])))
	vendor := refval.Vendor{Name: "acme", Format: refval.FormatRPM, Packages: []string{"*"}, Key: h.vendor}
	p, err := rpm.Prove(rpm.Unpack(h.old), []refval.Vendor{vendor}, refval.SelectExecutable, in.Time)
	if err != nil {
		t.Fatal(err)
	}
	in.References = []*refval.Set{p.Set}
	for what, packages := range map[string]string{"of an accepted vendor": "*", "of no accepted vendor": "other-*"} {
		vendor.Packages = []string{packages}
		in.CodeSets = []*refval.CodeSet{trusting(t, []refval.Vendor{vendor}, accepted)}
		in.Policy = compile(t, named)
		demand(t, what+", without a floor", in)
		in.Policy = compile(t, strings.Replace(named, "rules none\n", "floor rpm good 2.0-1\nrules none\n", 1))
		demand(t, what, in, keystead.ReasonPackageOutdated)
	}
}

// unsignedHeader is a header that anybody can write: of a package without files.
func unsignedHeader(name string) []byte {
	var index, data []byte
	for tag, text := range []string{name, "1", "1"} {
		index = binary.BigEndian.AppendUint32(index, uint32(1000+tag)) // name, version, release
		index = binary.BigEndian.AppendUint32(index, 6)
		index = binary.BigEndian.AppendUint32(index, uint32(len(data)))
		index = binary.BigEndian.AppendUint32(index, 1)
		data = append(append(data, text...), 0)
	}
	out := binary.BigEndian.AppendUint32(nil, uint32(len(index)/16))
	return append(append(binary.BigEndian.AppendUint32(out, uint32(len(data))), index...), data...)
}

// TestVerdictBombs: packages that nobody signed speak against no host that does not run
// them, and so are in verdicts that allow, which nodes keep: few, by short names.
func TestVerdictBombs(t *testing.T) {
	h := theHost(t)
	list := func(n int, name func(i int) string) []byte {
		raw, err := rpm.Pack(func(yield func([]byte, error) bool) {
			for header, err := range rpm.Unpack(h.list) {
				if err != nil {
					t.Fatal(err)
				}
				if !yield(header.Bytes(), nil) {
					return
				}
			}
			for i := range n {
				if !yield(unsignedHeader(name(i)), nil) {
					return
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	long := list(1, func(int) string { return strings.Repeat("a", 32<<20) })
	if len(long) > 1<<20 {
		t.Fatalf("the list is %d bytes long, and is to be small", len(long))
	}
	demand(t, "a name of 32 MiB", h.input(t, long, "*"), keystead.ReasonMalformed)
	many := h.input(t, list(20_000, func(i int) string { return fmt.Sprintf("%0200d", i) }), "*", ran("good", "2.0"))
	demand(t, "many names", many)
	v := appraise.Appraise(many)
	if n := len(v.Claims().Packages.Unproven); n != 1024 || len(v.Bytes()) > 512<<10 {
		t.Errorf("%d packages are listed, in a verdict of %d bytes", n, len(v.Bytes()))
	}
	if c := v.Claims().Packages; c.Listed < 20_000 || c.Proven > 4 {
		t.Errorf("claims count %d listed, %d proven", c.Listed, c.Proven)
	}
}
