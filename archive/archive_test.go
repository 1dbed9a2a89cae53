package archive_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/archive"
)

func sample() archive.Record {
	return archive.Record{Host: "web-1", Verdict: keystead.Sum([]byte("verdict")), Terms: keystead.Sum([]byte("terms")), Time: 1790000000000, Tick: 77,
		Build: "devel go1.26", Bundle: bytes.Repeat([]byte("evidence of what runs "), 500)}
}

var domain = keystead.Sum([]byte("domain"))

func newKey(b byte) []byte { return bytes.Repeat([]byte{b}, archive.KeySize) }

func seal(t *testing.T, r archive.Record, key []byte) ([]byte, archive.Label) {
	t.Helper()
	sealed, l, err := archive.Seal(domain, &r, key)
	if err != nil {
		t.Fatal(err)
	}
	return sealed, l
}

// TestSealed opens what was sealed, and finds nothing of it in what is at rest.
func TestSealed(t *testing.T) {
	r := sample()
	sealed, l := seal(t, r, newKey(1))
	if bytes.Contains(sealed, []byte("evidence of")) || len(sealed) > len(r.Bundle)/2 {
		t.Errorf("%d bytes at rest: in clear, or not compressed", len(sealed))
	}
	got, err := archive.Open(domain, &l, sealed, newKey(1))
	if err != nil || !bytes.Equal(got.Bytes(), r.Bytes()) {
		t.Fatalf("%v, %v", got.Host, err)
	}
	l.Epoch, l.Wrapped = 3, []byte("wrapped")
	again, err := archive.ParseLabel(l.Bytes())
	if err != nil || !bytes.Equal(again.Bytes(), l.Bytes()) || bytes.Contains(l.About(), l.Wrapped) {
		t.Errorf("label: %v, %v", again, err)
	}
}

// TestSealedAltered tries every way to pass other bytes off as a record.
func TestSealedAltered(t *testing.T) {
	r := sample()
	sealed, l := seal(t, r, newKey(1))
	other := sample()
	other.Verdict, other.Host = keystead.Sum([]byte("another")), "web-2"
	otherSealed, otherLabel := seal(t, other, newKey(1))
	claim := func(sealed []byte) archive.Label { // a label that fits the bytes
		x := l
		x.Size, x.Sealed = uint64(len(sealed)), keystead.Sum(sealed)
		return x
	}
	flipped := bytes.Clone(sealed)
	flipped[len(flipped)/2] ^= 1
	renamed := otherLabel
	renamed.Verdict = l.Verdict
	host := l
	host.Host = "web-2"
	later := l
	later.Time++
	for name, tc := range map[string]struct {
		label  archive.Label
		sealed []byte
		key    []byte
		domain keystead.Digest
	}{
		"altered":                    {l, flipped, newKey(1), domain},
		"altered, label as well":     {claim(flipped), flipped, newKey(1), domain},
		"truncated":                  {l, sealed[:len(sealed)-1], newKey(1), domain},
		"truncated, label as well":   {claim(sealed[:40]), sealed[:40], newKey(1), domain},
		"empty":                      {claim(nil), nil, newKey(1), domain},
		"another's":                  {l, otherSealed, newKey(1), domain},
		"another's, under this name": {renamed, otherSealed, newKey(1), domain},
		"another key":                {l, sealed, newKey(2), domain},
		"another domain":             {l, sealed, newKey(1), keystead.Sum([]byte("elsewhere"))},
		"another host on the label":  {host, sealed, newKey(1), domain},
		"another time on the label":  {later, sealed, newKey(1), domain},
	} {
		if _, err := archive.Open(tc.domain, &tc.label, tc.sealed, tc.key); !errors.Is(err, keystead.ReasonArchiveAltered) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFormats reads back each form, and refuses it with a byte too few or too many.
func TestFormats(t *testing.T) {
	r := sample()
	_, l := seal(t, r, newKey(1))
	f := archive.File{Receipt: []byte("receipt"), Record: r.Bytes(), Objects: [][]byte{[]byte("policy"), nil}}
	for name, tc := range map[string]struct {
		bytes []byte
		parse func([]byte) ([]byte, error)
	}{
		"record": {r.Bytes(), func(b []byte) ([]byte, error) { x, err := archive.ParseRecord(b); return x.Bytes(), err }},
		"label":  {l.Bytes(), func(b []byte) ([]byte, error) { x, err := archive.ParseLabel(b); return x.Bytes(), err }},
		"file":   {f.Bytes(), func(b []byte) ([]byte, error) { x, err := archive.ParseFile(b); return x.Bytes(), err }},
	} {
		if got, err := tc.parse(tc.bytes); err != nil || !bytes.Equal(got, tc.bytes) {
			t.Errorf("%s: %v", name, err)
		}
		next := bytes.Clone(tc.bytes)
		next[0]++
		for _, bad := range [][]byte{nil, tc.bytes[:len(tc.bytes)-1], append(bytes.Clone(tc.bytes), 0), next} {
			var format *keystead.FormatError
			if _, err := tc.parse(bad); !errors.As(err, &format) {
				t.Errorf("%s: %d of %d bytes: %v", name, len(bad), len(tc.bytes), err)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	r := sample()
	r.Bundle = r.Bundle[:40]
	sealed, l, err := archive.Seal(domain, &r, newKey(1))
	if err != nil {
		f.Fatal(err)
	}
	file := archive.File{Receipt: []byte("receipt"), Record: r.Bytes(), Objects: [][]byte{[]byte("policy")}}
	for _, seed := range [][]byte{r.Bytes(), l.Bytes(), file.Bytes(), sealed} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, err := archive.ParseRecord(b); err == nil && !bytes.Equal(x.Bytes(), b) {
			t.Error("a record has two encodings")
		}
		if x, err := archive.ParseLabel(b); err == nil && !bytes.Equal(x.Bytes(), b) {
			t.Error("a label has two encodings")
		}
		if x, err := archive.ParseFile(b); err == nil && !bytes.Equal(x.Bytes(), b) {
			t.Error("a file has two encodings")
		}
		_, _ = archive.ReadAdmission(b)
		archive.Differences(b, []byte("{}"))
		l := l
		l.Size, l.Sealed = uint64(len(b)), keystead.Sum(b)
		if _, err := archive.Open(domain, &l, b, newKey(1)); err == nil && !bytes.Equal(b, sealed) {
			t.Error("other bytes open")
		}
	})
}
