package deb

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/debrepo"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func keyringOf(t testing.TB, signers ...*debrepo.Signer) (k Keyring) {
	t.Helper()
	for _, s := range signers {
		one, err := ParseKeyring(s.Public())
		if err != nil {
			t.Fatal(err)
		}
		k = k.Add(one)
	}
	return k
}

func sampleRepository(signers ...*debrepo.Signer) debrepo.Repository {
	return debrepo.Repository{Suite: "stable", Date: noon, ValidUntil: noon.Add(7 * 24 * time.Hour), Signers: signers,
		Packages: []debrepo.Package{{Name: "hello", Version: "1:2.0-1", Architecture: "amd64", Deb: debrepo.Deb(".gz")}}}
}

func wantReason(t *testing.T, name string, err error, reason keystead.Reason, says string) {
	t.Helper()
	if !errors.Is(err, reason) || !strings.Contains(err.Error(), says) {
		t.Errorf("%s: error %v, want %s with %q", name, err, reason, says)
	}
}

func TestVerifyRelease(t *testing.T) {
	from := noon.Add(-24 * time.Hour)
	vendor, second, stranger := debrepo.NewSigner("vendor", from, 0), debrepo.NewSigner("second", from, 0), debrepo.NewSigner("stranger", from, 0)
	short := debrepo.NewSigner("short", from, 48*time.Hour)
	revoked := debrepo.NewSigner("revoked", from, 0)
	revoked.Revoke(noon.Add(-time.Hour))
	keys := keyringOf(t, vendor, second, short, revoked)
	hour := noon.Add(time.Hour)

	signed := func(s ...*debrepo.Signer) []byte { return sampleRepository(s...).Files()["dists/stable/InRelease"] }
	good := signed(vendor, second, stranger)
	r, err := VerifyRelease(good, keys, hour)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Signers) != 2 || strings.Contains(fmt.Sprint(r.Signers), stranger.Fingerprint()) || r.Digest != keystead.Sum(good) || !r.Is("stable") || r.Is("oldstable") {
		t.Errorf("%+v", r)
	}
	edit := func(old, new string) []byte { return bytes.Replace(good, []byte(old), []byte(new), 1) }
	for _, tc := range []struct {
		name   string
		raw    []byte
		keys   Keyring
		at     time.Time
		reason keystead.Reason
		says   string
	}{
		{"expired", good, keys, noon.Add(8 * 24 * time.Hour), keystead.ReasonIndexExpired, "Valid-Until"},
		{"dated and signed tomorrow", good, keys, noon.Add(-time.Hour), keystead.ReasonIndexFuture, "signed on"},
		{"dated tomorrow, signed today", debrepo.Sign(sampleRepository().Release(""), from, vendor), keys, noon.Add(-time.Hour), keystead.ReasonIndexFuture, "Date"},
		{"by a stranger", signed(stranger), keys, hour, keystead.ReasonIndexUnsigned, "not in the keyring"},
		{"no keys", good, Keyring{}, hour, keystead.ReasonIndexUnsigned, "0 certificates"},
		{"by a key that has expired since", signed(short), keys, noon.Add(48 * time.Hour), keystead.ReasonIndexUnsigned, "expired"},
		{"by a revoked key", signed(revoked), keys, hour, keystead.ReasonIndexUnsigned, "revoked"},
		{"by a key that signed-by leaves out", signed(second), keys.Only(vendor.Fingerprint()), hour, keystead.ReasonIndexUnsigned, "not in the keyring"},
		{"altered", edit("Codename: stable", "Codename: stab1e"), keys, hour, keystead.ReasonIndexUnsigned, "invalid"},
		{"a field more", edit("Origin:", "Suite: other\nOrigin:"), keys, hour, keystead.ReasonIndexUnsigned, "invalid"},
		{"text before", append([]byte("Origin: Other\n\n"), good...), keys, hour, keystead.ReasonIndexUnsigned, "before the signed text"},
		{"text after", append(bytes.Clone(good), "Origin: Other\n"...), keys, hour, keystead.ReasonIndexUnsigned, "after the signature"},
		{"two messages", append(bytes.Clone(good), good...), keys, hour, keystead.ReasonIndexUnsigned, "after the signature"},
		{"header smuggles text", edit("Hash: SHA256\n", "Hash: SHA256\nOrigin: Other\n"), keys, hour, keystead.ReasonIndexUnsigned, "clear-signed"},
		{"signature cut off", good[:len(good)-30], keys, hour, keystead.ReasonIndexUnsigned, ""},
		{"not signed at all", []byte(sampleRepository().Release("")), keys, hour, keystead.ReasonIndexUnsigned, "before"},
		{"empty", nil, keys, hour, keystead.ReasonIndexUnsigned, ""},
	} {
		_, err := VerifyRelease(tc.raw, tc.keys, tc.at)
		wantReason(t, tc.name, err, tc.reason, tc.says)
	}
	if _, err := VerifyRelease(signed(short), keys, hour); err != nil {
		t.Errorf("by the same key while it was valid: %v", err)
	}
	if _, err := VerifyRelease(good, keys.Only(strings.ToLower(vendor.Fingerprint())), hour); err != nil {
		t.Errorf("signed-by in lower case: %v", err)
	}
}

// A signature over SHA-1 counts for nothing, though key and text are right.
func TestSignatureOverSHA1(t *testing.T) {
	config := &packet.Config{Time: func() time.Time { return noon }, RSABits: 2048}
	e, err := openpgp.NewEntity("old", "", "", config)
	if err != nil {
		t.Fatal(err)
	}
	var public bytes.Buffer
	if err := e.Serialize(&public); err != nil {
		t.Fatal(err)
	}
	keys, err := ParseKeyring(public.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	for hash, want := range map[crypto.Hash]int{crypto.SHA1: 0, crypto.SHA256: 1} {
		packet := rsaSignature(t, e, hash, "text")
		good, bad, err := keys.Verify([]byte("text"), bytes.NewReader(packet), noon)
		if err != nil || len(good) != want || want == 0 && !strings.Contains(fmt.Sprint(bad), "SHA-1") {
			t.Errorf("%v: %v good, %v, %v", hash, good, bad, err)
		}
	}
}

// rsaSignature writes a version 4 signature packet (RFC 9580, 5.2.3) by hand: the
// library refuses to sign SHA-1.
func rsaSignature(t *testing.T, e *openpgp.Entity, hash crypto.Hash, text string) []byte {
	id := map[crypto.Hash]byte{crypto.SHA1: 2, crypto.SHA256: 8}[hash]
	hashed := append([]byte{4, 0, 1, id, 0, 6, 5, 2}, binary.BigEndian.AppendUint32(nil, uint32(noon.Unix()))...)
	h := hash.New()
	h.Write([]byte(text))
	h.Write(hashed)
	h.Write([]byte{4, 0xff, 0, 0, 0, byte(len(hashed))})
	digest := h.Sum(nil)
	sig, err := rsa.SignPKCS1v15(nil, e.PrivateKey.PrivateKey.(*rsa.PrivateKey), hash, digest)
	if err != nil {
		t.Fatal(err)
	}
	body := append(hashed, 0, 10, 9, 16)
	body = binary.BigEndian.AppendUint64(body, e.PrimaryKey.KeyId)
	body = append(body, digest[:2]...)
	n := new(big.Int).SetBytes(sig)
	body = append(binary.BigEndian.AppendUint16(body, uint16(n.BitLen())), n.Bytes()...)
	return append([]byte{0xc2, byte((len(body)-192)>>8) + 192, byte(len(body) - 192)}, body...)
}

// Blanks at the ends of lines are not signed; they must not reach the parser.
func TestUnsignedBlanksAreNotRead(t *testing.T) {
	vendor := debrepo.NewSigner("vendor", noon, 0)
	raw := debrepo.Sign(sampleRepository().Release(""), noon, vendor)
	padded := bytes.ReplaceAll(raw, []byte("Suite: stable\n"), []byte("Suite: stable \t\n"))
	r, err := VerifyRelease(padded, keyringOf(t, vendor), noon)
	if err != nil || r.Suite != "stable" {
		t.Errorf("%+v, %v", r, err)
	}
}

// Digests by MD5 alone name nothing.
func TestReleaseWithMD5Only(t *testing.T) {
	vendor := debrepo.NewSigner("vendor", noon, 0)
	repo := sampleRepository(vendor)
	text, _, _ := strings.Cut(repo.Release(repo.Index()), "SHA256:")
	r, err := VerifyRelease(debrepo.Sign(text, noon, vendor), keyringOf(t, vendor), noon)
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Index(debrepo.IndexName, []byte(repo.Index()))
	wantReason(t, "MD5 only", err, keystead.ReasonIndexMismatch, "SHA256")
}

func TestIndex(t *testing.T) {
	vendor := debrepo.NewSigner("vendor", noon, 0)
	repo := sampleRepository(vendor)
	files := repo.Files()
	r, err := VerifyRelease(files["dists/stable/InRelease"], keyringOf(t, vendor), noon)
	if err != nil {
		t.Fatal(err)
	}
	packed, plain := files["dists/stable/"+debrepo.IndexName+".gz"], []byte(repo.Index())
	x, err := r.UnpackIndex(debrepo.IndexName, ".gz", packed)
	if err != nil {
		t.Fatal(err)
	}
	for p, err := range x.Packages() {
		want := Package{Name: Name{"hello", "1:2.0-1", "amd64"}, Filename: repo.Packages[0].Filename(), Size: int64(len(repo.Packages[0].Deb)), Digest: keystead.Sum(repo.Packages[0].Deb)}
		if err != nil || p != want {
			t.Errorf("%+v, %v, want %+v", p, err, want)
		}
	}
	_, err = r.Index(debrepo.IndexName, bytes.Replace(plain, []byte("1:2.0-1"), []byte("1:2.0-2"), 1))
	wantReason(t, "altered", err, keystead.ReasonIndexMismatch, "sha256:")
	_, err = r.Index(debrepo.IndexName, append(bytes.Clone(plain), '\n'))
	wantReason(t, "longer", err, keystead.ReasonIndexMismatch, "bytes")
	_, err = r.Index("contrib/binary-amd64/Packages", plain)
	wantReason(t, "not in the release", err, keystead.ReasonIndexMismatch, "none of that name")
	_, err = r.UnpackIndex(debrepo.IndexName, ".gz", debrepo.Pack(".gz", plain[1:]))
	wantReason(t, "packed otherwise", err, keystead.ReasonIndexMismatch, "")
}

// A signed but dishonest release: the packed index holds more than its size says.
func TestIndexBomb(t *testing.T) {
	vendor := debrepo.NewSigner("vendor", noon, 0)
	repo := sampleRepository(vendor)
	bomb := debrepo.Pack(".gz", make([]byte, 8<<20))
	sum := keystead.Sum(bomb)
	text := repo.Release(repo.Index()) + fmt.Sprintf(" %x %d %s.gz\n", sum[:], len(bomb), "main/binary-i386/Packages") + fmt.Sprintf(" %x %d %s\n", sum[:], 1000, "main/binary-i386/Packages")
	r, err := VerifyRelease(debrepo.Sign(text, noon, vendor), keyringOf(t, vendor), noon)
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.UnpackIndex("main/binary-i386/Packages", ".gz", bomb)
	wantReason(t, "bomb", err, keystead.ReasonPackageCorrupt, "bound")
}

func TestPackagesRefuse(t *testing.T) {
	good := sampleRepository().Index()
	for name, tc := range map[string]struct{ text, field, says string }{
		"leads upwards":      {strings.Replace(good, "Filename: pool", "Filename: pool/../..", 1), "Filename", "below"},
		"absolute":           {strings.Replace(good, "Filename: pool", "Filename: /pool", 1), "Filename", "below"},
		"another address":    {strings.Replace(good, "Filename: pool", "Filename: http://x/pool", 1), "Filename", "below"},
		"query":              {strings.Replace(good, "Filename: pool", "Filename: pool?", 1), "Filename", "below"},
		"negative size":      {strings.Replace(good, "Size: ", "Size: -", 1), "Size", "not a size"},
		"MD5 only":           {strings.Replace(good, "SHA256:", "SHA1:", 1), "SHA256", "digest"},
		"name with a path":   {strings.Replace(good, "Package: hello", "Package: ../hello", 1), "Package", "characters"},
		"field twice":        {strings.Replace(good, "Size:", "SIZE: 1\nSize:", 1), "stanza", "twice"},
		"continues nothing":  {" x\n" + good, "stanza", "begun"},
		"version continues":  {strings.Replace(good, "Architecture", " injected\nArchitecture", 1), "Package", "characters"},
		"NUL":                {strings.Replace(good, "hello", "hel\x00lo", 1), "stanza", "NUL"},
		"neither field nor ": {strings.Replace(good, "Size:", "Size", 1), "stanza", "not a field"},
		"many fields":        {manyFields(300), "stanza", "more than"},
	} {
		var last error
		for _, err := range (&Index{[]byte(tc.text)}).Packages() {
			last = err
		}
		var f *keystead.FormatError
		if !errors.As(last, &f) || f.Field != tc.field || !strings.Contains(f.Problem, tc.says) {
			t.Errorf("%s: error %v, want a FormatError of %s with %q", name, last, tc.field, tc.says)
		}
	}
}

func manyFields(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "F%d: x\n", i)
	}
	return b.String()
}

func TestParseKeyring(t *testing.T) {
	real := armored(t, debrepo.NewSigner("vendor", noon, 0))
	k, err := ParseKeyring(append(bytes.Clone(real), armored(t, debrepo.NewSigner("second", noon, 0))...))
	if err != nil || k.Len() != 2 {
		t.Errorf("two armoured certificates: %d, %v", k.Len(), err)
	}
	for _, raw := range [][]byte{nil, []byte("x"), real[:len(real)/2], bytes.Repeat([]byte{0}, maxKeyring+1)} {
		if _, err := ParseKeyring(raw); err == nil {
			t.Errorf("%.20q was accepted", raw)
		}
	}
}

func armored(t testing.TB, s *debrepo.Signer) []byte {
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	if err == nil {
		_, err = w.Write(s.Public())
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return append(b.Bytes(), '\n')
}

func FuzzVerifyRelease(f *testing.F) {
	vendor := debrepo.NewSigner("vendor", noon, 0)
	keys := keyringOf(f, vendor)
	repo := sampleRepository(vendor)
	text := repo.Release(repo.Index())
	f.Add(repo.Files()["dists/stable/InRelease"], text)
	f.Add([]byte("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nx\n-----BEGIN PGP SIGNATURE-----\n\n-----END PGP SIGNATURE-----\n"), "")
	f.Fuzz(func(t *testing.T, raw []byte, text string) {
		if r, err := VerifyRelease(raw, keys, noon); err == nil && (r.Codename != "stable" || len(r.Signers) != 1) {
			t.Fatalf("a forged release was accepted: %+v", r)
		}
		if _, err := parseRelease([]byte(text)); err != nil {
			wantFormatError(t, err)
		}
	})
}

func FuzzParseKeyring(f *testing.F) {
	f.Add(debrepo.NewSigner("vendor", noon, 0).Public())
	f.Add(armored(f, debrepo.NewSigner("vendor", noon, 0)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		k, err := ParseKeyring(raw)
		if err != nil {
			wantFormatError(t, err)
		} else if k.Only("AB").Len() != 0 {
			t.Fatal("a key of fingerprint AB")
		}
	})
}

func wantFormatError(t *testing.T, err error) {
	t.Helper()
	var f *keystead.FormatError
	if !errors.As(err, &f) {
		t.Fatalf("error %T %v", err, err)
	}
}

func FuzzPackages(f *testing.F) {
	f.Add([]byte(sampleRepository().Index()))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for p, err := range (&Index{raw}).Packages() {
			if err != nil {
				wantFormatError(t, err)
			} else if strings.Contains("/"+p.Filename+"/", "/../") || p.Size < 0 || p.check() != nil {
				t.Fatalf("%+v", p)
			}
		}
	})
}
