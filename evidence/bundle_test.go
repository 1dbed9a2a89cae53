package evidence

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/keystead/keystead"
)

func sample() Parts {
	return Parts{
		Binding: Binding{Purpose: PurposeVerify, Nonce: []byte("0123456789abcdef")},
		Origin:  Origin{Hostname: "host", Collected: 1},
		TPM: &TPM{AKPublic: []byte{1}, Attest: []byte{2}, Signature: []byte{3},
			PCRs: []Values{{Bank: SHA256, Value: map[int][]byte{10: make([]byte, 32)}}}},
		EventLog: []byte("events"),
		IMALog:   []byte("files"),
		Packages: &PackageList{Format: FormatDpkgStatus, Data: []byte("Package: a\n")},
	}
}

func TestBundleRoundTrip(t *testing.T) {
	b, err := New(sample())
	if err != nil {
		t.Fatal(err)
	}
	back, err := Parse(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(back.Parts(), sample()) || back.Digest() != keystead.Sum(b.Bytes()) {
		t.Errorf("got %+v", back.Parts())
	}
}

func TestBundleRefusesWithOffsetAndItem(t *testing.T) {
	seq := func(items ...any) []byte {
		var buf bytes.Buffer
		for _, it := range items {
			buf.Write(must(cbor.Marshal(it)))
		}
		return buf.Bytes()
	}
	binding := []any{1, map[int]any{1: "verify", 2: []byte("n")}}
	tpm := func(values any) []any {
		return []any{3, map[int]any{1: []byte{1}, 2: []byte{2}, 3: []byte{3}, 4: []any{values}}}
	}
	good := must(New(sample())).Bytes()
	for name, tc := range map[string]struct {
		raw          []byte
		field, words string
	}{
		"empty":               {nil, "magic", "EOF"},
		"wrong magic":         {seq("keystead-bundle/2"), "magic", "want"},
		"no binding":          {seq(bundleMagic), "binding", "missing"},
		"empty purpose":       {seq(bundleMagic, []any{1, map[int]any{1: "", 2: []byte("n")}}), "binding", "missing"},
		"unknown type":        {seq(bundleMagic, binding, []any{8, []byte{}}), "item", "type 8"},
		"twice":               {seq(bundleMagic, binding, binding), "item", "type 1 after type 1"},
		"out of order":        {seq(bundleMagic, binding, []any{5, []byte{}}, []any{4, []byte{}}), "item", "type 4 after type 5"},
		"unknown field":       {seq(bundleMagic, []any{1, map[int]any{1: "verify", 2: []byte("n"), 9: 1}}), "binding", "unknown field"},
		"long nonce":          {seq(bundleMagic, []any{1, map[int]any{1: "verify", 2: make([]byte, 65)}}), "binding", "nonce is 65 bytes"},
		"wrong kind":          {seq(bundleMagic, []any{1, "text"}), "binding", "cannot unmarshal"},
		"tag":                 {seq(bundleMagic, cbor.Tag{Number: 1, Content: 1}), "item", "tag"},
		"torn":                {good[:len(good)-1], "item", "EOF"},
		"left over":           {append(bytes.Clone(good), 0xff), "item", ""},
		"register 24":         {seq(bundleMagic, binding, tpm(map[int]any{1: 0x0b, 2: map[int]any{24: make([]byte, 32)}})), "tpm", "PCR 24"},
		"short register":      {seq(bundleMagic, binding, tpm(map[int]any{1: 0x0b, 2: map[int]any{1: make([]byte, 31)}})), "tpm", "PCR 1"},
		"unknown bank":        {seq(bundleMagic, binding, tpm(map[int]any{1: 0x99, 2: map[int]any{}})), "tpm", "alg-0x0099"},
		"item over its bound": {seq(bundleMagic, binding, []any{4, make([]byte, MaxEventLog+1)}), "event-log", "at most"},
	} {
		_, err := Parse(tc.raw)
		var f *keystead.FormatError
		if !errors.As(err, &f) {
			t.Errorf("%s: want a FormatError, got %v", name, err)
			continue
		}
		if f.Field != tc.field || !strings.Contains(f.Problem, tc.words) {
			t.Errorf("%s: want field %q and %q, got %v", name, tc.field, tc.words, f)
		}
	}
}

func TestBankStatedTwice(t *testing.T) {
	p := sample()
	p.TPM.PCRs = append(p.TPM.PCRs, p.TPM.PCRs[0])
	if _, err := New(p); err == nil || !strings.Contains(err.Error(), "stated twice") {
		t.Errorf("got %v", err)
	}
}

// TestSameErrorTwice: of several registers at fault, each reading names the same.
func TestSameErrorTwice(t *testing.T) {
	p := sample()
	for i := range 24 {
		p.TPM.PCRs[0].Value[i] = []byte("short")
	}
	for range 20 {
		if _, err := New(p); err == nil || !strings.Contains(err.Error(), "PCR 0 of bank") {
			t.Fatalf("got %v", err)
		}
	}
}

// TestBindingSeparates: no two different bindings share their qualifying data,
// whatever is moved from one field to the next.
func TestBindingSeparates(t *testing.T) {
	seen := map[string]Binding{}
	for _, b := range []Binding{
		{Purpose: "verify", Nonce: []byte("ab")},
		{Purpose: "verify", Nonce: []byte("a"), SubjectKey: []byte("b")},
		{Purpose: "verif", Nonce: []byte("yab")},
		{Purpose: "verify", SubjectKey: []byte("ab")},
		{Purpose: "ledger", Nonce: []byte("ab")},
		{Purpose: PurposeRaw, Nonce: []byte("ab")},
	} {
		q := string(b.QualifyingData())
		if other, ok := seen[q]; ok {
			t.Errorf("%+v and %+v have the same qualifying data", b, other)
		}
		seen[q] = b
	}
}

func TestAssuranceText(t *testing.T) {
	for _, a := range Assurances() {
		back, err := ParseAssurance(a.String())
		if err != nil || back != a {
			t.Errorf("%v: got %v, %v", a, back, err)
		}
	}
	if _, err := ParseAssurance("measured"); err == nil {
		t.Error("an unknown level must be refused")
	}
	if s := Assurance(99).String(); s != "assurance(99)" {
		t.Errorf("got %q", s)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(must(New(sample())).Bytes())
	f.Add(must(New(Parts{Binding: Binding{Purpose: PurposeRaw, Nonce: []byte("n")}})).Bytes())
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := Parse(raw)
		if err != nil {
			var fe *keystead.FormatError
			if !errors.As(err, &fe) {
				t.Fatalf("want a FormatError, got %T %v", err, err)
			}
			return
		}
		again, err := New(b.Parts())
		if err != nil {
			t.Fatalf("parts of a parsed bundle must encode: %v", err)
		}
		if _, err := Parse(again.Bytes()); err != nil {
			t.Fatal(err)
		}
	})
}
