package apk

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/keystead/keystead"
)

// The writers below make what abuild and apk index make, from their documented formats:
// apk-tools is not among the tools that tests have (docs: unverified-tool).

type signing struct {
	private *rsa.PrivateKey
	key     Key
}

func newSigning(t testing.TB) signing {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ParseKey(der)
	if err != nil {
		t.Fatal(err)
	}
	return signing{k, key}
}

// segment is a tar archive in a gzip member; only the last of a file has marks of its end.
func segment(t testing.TB, end bool, members ...tar.Header) []byte {
	t.Helper()
	var archive, packed bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, h := range members {
		content := h.Uname // of the member
		h.Uname, h.Size = "", int64(len(content))
		if h.Typeflag != tar.TypeReg {
			h.Size = 0
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write([]byte(content)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if end {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	z := gzip.NewWriter(&packed)
	z.Write(archive.Bytes())
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes()
}

func file(name, content string, mode int64) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Uname: content}
}

// sign puts a signature of that kind before what is signed.
func (s signing) sign(t testing.TB, kind string, signed []byte) []byte {
	t.Helper()
	sum256, sum1 := sha256.Sum256(signed), sha1.Sum(signed)
	hash, sum := crypto.SHA256, sum256[:]
	if kind == signSHA1 {
		hash, sum = crypto.SHA1, sum1[:]
	}
	sig, err := rsa.SignPKCS1v15(rand.Reader, s.private, hash, sum)
	if err != nil {
		t.Fatal(err)
	}
	return append(segment(t, false, file(kind+"test@example.org-1.rsa.pub", string(sig), 0o644)), signed...)
}

const busybox = "\x7fELF busybox"

// sample is a package file, signed or not, and its line in the index by Q1 or Q2.
func (s signing) sample(t testing.TB, kind, check string, data []byte, info string) (raw []byte, stanza string) {
	t.Helper()
	if data == nil {
		data = segment(t, true, tar.Header{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755}, file("bin/busybox", busybox, 0o755), tar.Header{Name: "bin/box", Typeflag: tar.TypeLink, Linkname: "bin/busybox"},
			tar.Header{Name: "bin/sh", Typeflag: tar.TypeSymlink, Linkname: "/bin/busybox"}, file("etc/securetty", "tty1\n", 0o644))
	}
	sum := sha256.Sum256(data)
	if info == "" {
		info = fmt.Sprintf("# Generated\npkgname = busybox\npkgver = 1.36.1-r15\narch = x86_64\ndatahash = %x\n", sum[:])
	}
	control := segment(t, false, file(".PKGINFO", info, 0o644))
	q1, q2 := sha1.Sum(control), sha256.Sum256(control)
	c := map[string]string{"Q1": "Q1" + base64.StdEncoding.EncodeToString(q1[:]), "Q2": "Q2" + base64.StdEncoding.EncodeToString(q2[:])}[check]
	switch kind {
	case "":
		raw = append(segment(t, false, file("nothing", "x", 0o644)), control...)
	default:
		raw = s.sign(t, kind, control)
	}
	raw = append(raw, data...)
	return raw, fmt.Sprintf("C:%s\nP:busybox\nV:1.36.1-r15\nA:x86_64\nS:%d\nI:1000\nT:Size optimized toolbox\n\n", c, len(raw))
}

func (s signing) index(t testing.TB, kind, text string) []byte {
	t.Helper()
	return s.sign(t, kind, segment(t, true, file("DESCRIPTION", "v3.20", 0o644), file("APKINDEX", text, 0o644)))
}

func wantReason(t *testing.T, name string, err error, reason keystead.Reason, says string) {
	t.Helper()
	if !errors.Is(err, reason) || !strings.Contains(err.Error(), says) {
		t.Errorf("%s: error %v, want %s with %q", name, err, reason, says)
	}
}

func opened(t testing.TB, raw []byte, keys ...Key) Package {
	t.Helper()
	x, err := OpenIndex(raw, keys)
	if err != nil {
		t.Fatal(err)
	}
	for p, err := range x.Packages() {
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	t.Fatal("an empty index")
	return Package{}
}

// TestChain goes from the signed index to the files.
func TestChain(t *testing.T) {
	s := newSigning(t)
	for _, tc := range []struct{ kind, check string }{{signSHA256, "Q1"}, {signSHA256, "Q2"}, {signSHA1, "Q2"}, {"", "Q2"}} {
		raw, stanza := s.sample(t, tc.kind, tc.check, nil, "")
		p := opened(t, s.index(t, signSHA256, stanza), s.key)
		if p.String() != "busybox=1.36.1-r15:x86_64" || p.Filename() != "busybox-1.36.1-r15.apk" {
			t.Fatalf("%v", p)
		}
		files, err := Unpack(raw, p, []Key{s.key}, DefaultLimits)
		if err != nil || len(files) != 3 {
			t.Fatalf("%v: %v, %v", tc, files, err)
		}
		if f := files[0]; f.Path != "/usr/bin/busybox" || f.Digest != keystead.Sum([]byte(busybox)) || !f.Executable || files[1].Digest != f.Digest || files[2].Executable {
			t.Errorf("%v: %+v", tc, files)
		}
	}
}

// TestRefusals: what a mirror may do, and whom nobody accepted.
func TestRefusals(t *testing.T) {
	s, stranger := newSigning(t), newSigning(t)
	raw, stanza := s.sample(t, signSHA256, "Q1", nil, "")
	good := s.index(t, signSHA256, stanza)
	altered := bytes.Clone(good)
	altered[len(altered)-9] ^= 1
	for _, tc := range []struct {
		name   string
		raw    []byte
		reason keystead.Reason
		says   string
	}{
		{"index by a stranger", stranger.index(t, signSHA256, stanza), keystead.ReasonIndexUnsigned, "none of the 1 keys"},
		{"index over SHA-1", s.index(t, signSHA1, stanza), keystead.ReasonDigestWeak, "SHA-1"},
		{"index not signed", segment(t, true, file("APKINDEX", stanza, 0o644)), keystead.ReasonIndexUnsigned, "no signature"},
		{"index altered", altered, keystead.ReasonIndexUnsigned, "none of the 1 keys"},
		{"index with more at its end", append(bytes.Clone(good), segment(t, true, file("APKINDEX", stanza, 0o644))...), keystead.ReasonIndexUnsigned, "none of"},
		{"index signed with more at its end", s.sign(t, signSHA256, append(segment(t, true, file("APKINDEX", stanza, 0o644)), segment(t, true)...)), keystead.ReasonPackageCorrupt, "follow the index"},
		{"index twice", s.sign(t, signSHA256, segment(t, true, file("APKINDEX", "", 0o644), file("APKINDEX", stanza, 0o644), file("APKINDEX", stanza, 0o644))), keystead.ReasonPackageCorrupt, "twice"},
		{"no index", s.sign(t, signSHA256, segment(t, true, file("OTHER", "", 0o644))), keystead.ReasonPackageCorrupt, "holds no APKINDEX"},
		{"empty", nil, keystead.ReasonPackageCorrupt, ""},
	} {
		_, err := OpenIndex(tc.raw, []Key{s.key})
		wantReason(t, tc.name, err, tc.reason, tc.says)
	}
	p := opened(t, good, s.key)
	byStranger, strange := stranger.sample(t, signSHA256, "Q1", nil, "")
	weak, weakStanza := s.sample(t, signSHA1, "Q1", nil, "")
	unsigned, unsignedStanza := s.sample(t, "", "Q1", nil, "")
	otherData := segment(t, true, file("bin/busybox", "evil", 0o755))
	foreign, foreignStanza := s.sample(t, signSHA256, "Q1", otherData, "pkgname = busybox\npkgver = 1.36.1-r15\narch = x86_64\ndatahash = 00\n")
	renamed, renamedStanza := s.sample(t, signSHA256, "Q1", otherData, fmt.Sprintf("pkgname = other\npkgver = 1.36.1-r15\narch = x86_64\ndatahash = %x\n", sha256.Sum256(otherData)))
	doubled, doubledStanza := s.sample(t, signSHA256, "Q1", otherData, fmt.Sprintf("datahash = %x\ndatahash = 00\n", sha256.Sum256(otherData)))
	outside, outsideStanza := s.sample(t, signSHA256, "Q1", segment(t, true, file("../evil", "evil", 0o755)), "")
	linked, linkedStanza := s.sample(t, signSHA256, "Q1", segment(t, true, tar.Header{Name: "bin/a", Typeflag: tar.TypeLink, Linkname: "bin/none"}), "")
	swapped := append(bytes.Clone(raw[:len(raw)-len(otherData)]), otherData...)
	for _, tc := range []struct {
		name   string
		raw    []byte
		want   Package
		limits Limits
		reason keystead.Reason
		says   string
	}{
		{"a file that is cut off", raw[:len(raw)-1], p, DefaultLimits, keystead.ReasonIndexMismatch, "bytes"},
		{"other data of that size", swapped, p, DefaultLimits, keystead.ReasonPackageCorrupt, ""},
		{"signed by a stranger", byStranger, opened(t, s.index(t, signSHA256, strange), s.key), DefaultLimits, keystead.ReasonPackageForeign, "none of the 1 keys"},
		{"signed over SHA-1", weak, opened(t, s.index(t, signSHA256, weakStanza), s.key), DefaultLimits, keystead.ReasonDigestWeak, "SHA-1"},
		{"not signed", unsigned, opened(t, s.index(t, signSHA256, unsignedStanza), s.key), DefaultLimits, keystead.ReasonPackageUnsigned, "no signature"},
		{"data of another hash", foreign, opened(t, s.index(t, signSHA256, foreignStanza), s.key), DefaultLimits, keystead.ReasonPackageCorrupt, "its data is of"},
		{"another package's control part", renamed, opened(t, s.index(t, signSHA256, renamedStanza), s.key), DefaultLimits, keystead.ReasonPackageCorrupt, "is of \"other"},
		{"two data hashes", doubled, opened(t, s.index(t, signSHA256, doubledStanza), s.key), DefaultLimits, keystead.ReasonPackageCorrupt, "twice"},
		{"a path outside", outside, opened(t, s.index(t, signSHA256, outsideStanza), s.key), DefaultLimits, keystead.ReasonPackageCorrupt, "not a path"},
		{"a link to nothing", linked, opened(t, s.index(t, signSHA256, linkedStanza), s.key), DefaultLimits, keystead.ReasonPackageCorrupt, "hard link"},
		{"too many files", raw, p, Limits{Bytes: 1 << 20, Files: 2}, keystead.ReasonPackageCorrupt, "members"},
		{"too many bytes", raw, p, Limits{Bytes: 1 << 10, Files: 10}, keystead.ReasonPackageCorrupt, "bound"},
	} {
		if tc.name == "other data of that size" {
			tc.want.Size = int64(len(tc.raw))
		}
		_, err := Unpack(tc.raw, tc.want, []Key{s.key}, tc.limits)
		wantReason(t, tc.name, err, tc.reason, tc.says)
	}
}

// TestBombs: small files that unpack to much.
func TestBombs(t *testing.T) {
	s := newSigning(t)
	zeros := string(make([]byte, 64<<20))
	bomb, stanza := s.sample(t, signSHA256, "Q1", segment(t, true, file("bin/zeros", zeros, 0o755)), "")
	p := opened(t, s.index(t, signSHA256, stanza), s.key)
	_, err := Unpack(bomb, p, []Key{s.key}, Limits{Bytes: 1 << 20, Files: 10})
	wantReason(t, "data", err, keystead.ReasonPackageCorrupt, "bound")
	control, stanza := s.sample(t, signSHA256, "Q1", nil, zeros)
	_, err = Unpack(control, opened(t, s.index(t, signSHA256, stanza), s.key), []Key{s.key}, DefaultLimits)
	wantReason(t, "control part", err, keystead.ReasonPackageCorrupt, "bound")
	_, err = OpenIndex(segment(t, true, file("signature", zeros, 0o644)), []Key{s.key})
	wantReason(t, "signatures", err, keystead.ReasonPackageCorrupt, "bound")
}

const installed = "C:Q1abc=\nP:busybox\nV:1.36.1-r15\nA:x86_64\nF:bin\nR:busybox\na:0:0:755\nZ:Q1xyz=\n\nP:musl\nV:1.2.5-r0\nA:x86_64\n\n"

func TestParseInstalled(t *testing.T) {
	names, err := ParseInstalled([]byte(installed))
	if err != nil || len(names) != 2 || names[0].String() != "busybox=1.36.1-r15:x86_64" || names[1].Package != "musl" {
		t.Fatalf("%v, %v", names, err)
	}
	for name, text := range map[string]string{
		"no name": "V:1\nA:x\n\n", "twice": installed + installed, "a version twice": "P:a\nV:1\nV:2\nA:x\n\n", "no line": "P\n", "a NUL": "P:a\x00\n", "a path for a name": "P:../a\nV:1\nA:x\n\n",
	} {
		var format *keystead.FormatError
		if _, err := ParseInstalled([]byte(text)); !errors.As(err, &format) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzIndex(f *testing.F) {
	s := newSigning(f)
	_, stanza := s.sample(f, signSHA256, "Q2", nil, "")
	f.Add([]byte(stanza))
	f.Add([]byte(installed))
	f.Fuzz(func(t *testing.T, text []byte) {
		for p, err := range (&Index{text: text}).Packages() {
			if err == nil && (p.Package == "" || p.Size < 0) {
				t.Fatalf("%+v", p)
			}
		}
		if names, err := ParseInstalled(text); err == nil {
			for _, n := range names {
				if n.check() != nil {
					t.Fatal(n)
				}
			}
		}
	})
}

func FuzzUnpack(f *testing.F) {
	s := newSigning(f)
	raw, _ := s.sample(f, signSHA256, "Q2", nil, "")
	f.Add(raw)
	f.Add(s.index(f, signSHA256, "P:a\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for rest := raw; ; {
			_, text, next, err := cut(rest, 1<<20)
			if err != nil {
				break
			}
			member(text, ".PKGINFO")
			signer(text, next, []Key{s.key})
			if files, err := unpack(rest, Limits{Bytes: 1 << 20, Files: 100}); err == nil && len(files) > 100 {
				t.Fatal("more files than the limit")
			}
			rest = next
		}
	})
}
