package tpm2

import (
	"bytes"
	"encoding/asn1"
	"math/big"
	"testing"
)

// TestDER compares with encoding/asn1, at the edges of integers.
func TestDER(t *testing.T) {
	edges := [][]byte{nil, {0}, {0, 0, 1}, {0x7F}, {0x80}, {0, 0xFF}, bytes.Repeat([]byte{0xFF}, maxScalar), bytes.Repeat([]byte{0x7F}, maxScalar)}
	for _, r := range edges {
		for _, s := range edges {
			want, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(r), new(big.Int).SetBytes(s)})
			if err != nil {
				t.Fatal(err)
			}
			if got := (signature{r: r, s: s}).der(); !bytes.Equal(got, want) {
				t.Errorf("r %x, s %x: want %x, got %x", r, s, want, got)
			}
		}
	}
}
