package chain

import (
	"bytes"
	"slices"
	"testing"

	"github.com/keystead/keystead/evidence"
)

func digests(b evidence.Bank, n int) [][]byte {
	out := make([][]byte, n)
	for i := range out {
		var v Value
		Sum(b, &v, []byte{byte(i)})
		out[i] = bytes.Clone(v[:b.Size()])
	}
	return out
}

func replay(b evidence.Bank, ds [][]byte) []byte {
	var v Value
	for _, d := range ds {
		v.Extend(b, d)
	}
	return bytes.Clone(v[:b.Size()])
}

// TestExtend: the same values as the plain implementation next to the type of banks.
func TestExtend(t *testing.T) {
	for _, b := range []evidence.Bank{evidence.SHA1, evidence.SHA256, evidence.SHA384, evidence.SHA512} {
		ds := digests(b, 5)
		want := evidence.PCRs{Bank: b}
		for _, d := range ds {
			want.Extend(3, d)
		}
		if got := replay(b, ds); !bytes.Equal(got, want.Value[3]) {
			t.Errorf("%v: got %x, want %x", b, got, want.Value[3])
		}
	}
}

func TestExplain(t *testing.T) {
	const b = evidence.SHA256
	whole := digests(b, 40)
	want := replay(b, whole[:30])
	swapped := slices.Clone(whole)
	swapped[7], swapped[8] = swapped[8], swapped[7]
	lastSwapped := slices.Clone(whole[:30])
	lastSwapped[28], lastSwapped[29] = lastSwapped[29], lastSwapped[28]
	replaced := slices.Clone(whole)
	replaced[12] = whole[39]
	alt := make([][]byte, 41)
	alt[12] = whole[12]
	for name, tc := range map[string]struct {
		list [][]byte
		edit Edit
		at   int
	}{
		"extended":        {whole, Reached, 30},
		"swapped":         {swapped, Swapped, 7},
		"last swapped":    {lastSwapped, Swapped, 28},
		"added":           {slices.Insert(slices.Clone(whole), 3, whole[35]), Added, 3},
		"replaced":        {replaced, Replaced, 12},
		"cut":             {whole[:29], Unknown, 0},
		"one is missing":  {slices.Delete(slices.Clone(whole), 5, 6), Unknown, 0},
		"nothing at all":  {nil, Unknown, 0},
		"two were edited": {slices.Concat(swapped[:20], whole[35:36], swapped[20:]), Unknown, 0},
	} {
		edit, at := Explain(b, Value{}, tc.list, alt, want, 1<<20)
		if edit != tc.edit || at != tc.at {
			t.Errorf("%s: got %v at %d, want %v at %d", name, edit, at, tc.edit, tc.at)
		}
	}
	if edit, _ := Explain(b, Value{}, swapped, nil, want, 60); edit != Unknown {
		t.Error("the budget must bound the search")
	}
}
