package receipt_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/receipt"
)

// The domain of the recorded receipts in testdata, which the ledger's tests made.
const exampleDomain = "sha256:c716481feb0fd8e0b9639056d4d13e029c52b71ed686495dc1686fc58c050b2d"

func read(t testing.TB, file string) []byte {
	b, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func domain(t testing.TB) keystead.Digest {
	d, err := keystead.ParseDigest(exampleDomain)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func ExampleVerifier() {
	text, err := os.ReadFile("testdata/put.tlog-proof")
	if err != nil {
		fmt.Println(err)
		return
	}
	domain, err := keystead.ParseDigest(exampleDomain) // all that is trusted
	if err != nil {
		fmt.Println(err)
		return
	}
	p, err := receipt.NewVerifier(domain).Verify(text)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("a %v of %d bytes is leaf %d of %d, trust-disks %v, evidence of nodes %v\n", p.Kind, len(p.Entry), p.Index, p.Head.Size, p.Genesis.TrustsDisks(), p.Genesis.AsksEvidence())
	// Output: a transaction of 53 bytes is leaf 1 of 4, trust-disks true, evidence of nodes true
}

func TestZeroValuesDeny(t *testing.T) {
	if _, err := receipt.NewVerifier(keystead.Digest{}).Verify(read(t, "put.tlog-proof")); !errors.Is(err, keystead.ReasonDomainMismatch) {
		t.Errorf("a verifier of no domain: %v", err)
	}
	if _, err := receipt.NewVerifier(domain(t)).VerifyReceipt(&receipt.Receipt{}); err == nil {
		t.Error("an empty receipt was accepted")
	}
}

func TestRecorded(t *testing.T) {
	v := receipt.NewVerifier(domain(t))
	c, err := receipt.ParseConsistency(read(t, "consistency.txt"))
	if err != nil {
		t.Fatal(err)
	}
	from, to, err := v.VerifyConsistency(c)
	if err != nil || from.Size != 2 || to.Size != 4 || from.Roster != 0 || to.Roster != 1 {
		t.Errorf("%+v, %+v, %v", from, to, err)
	}
	p, err := v.Verify(read(t, "roster.tlog-proof"))
	if err != nil {
		t.Fatal(err)
	}
	change, err := receipt.ParseChange(p.Entry)
	if err != nil || len(change.Roster.Nodes) != 3 {
		t.Errorf("%+v, %v", change, err)
	}
	if p, err = v.Verify(read(t, "rekey.tlog-proof")); err != nil {
		t.Fatal(err)
	}
	change, err = receipt.ParseChange(p.Entry)
	if err != nil || !change.Rekey || len(change.Certificates) != 1 || change.Certificates[0].Node != "node-3" {
		t.Errorf("%+v, %v", change, err)
	}
}

func TestVerifierIsSafeForConcurrentUse(t *testing.T) {
	v := receipt.NewVerifier(domain(t))
	var wg sync.WaitGroup
	for i := range 8 {
		text := read(t, []string{"put.tlog-proof", "roster.tlog-proof"}[i%2])
		wg.Go(func() {
			for range 50 {
				if p, err := v.Verify(text); err != nil || p.Genesis.Name != "example" {
					t.Errorf("%+v, %v", p, err)
				}
			}
		})
	}
	wg.Wait()
}

// TestRostersRefused wants every roster to be written in one way only, and to
// count nobody twice.
func TestRostersRefused(t *testing.T) {
	r, err := receipt.Parse(read(t, "put.tlog-proof"))
	if err != nil {
		t.Fatal(err)
	}
	good := string(r.Chain[0])
	line := func(word string, n int) string {
		var found []string
		for l := range strings.Lines(good) {
			if strings.HasPrefix(l, word+" ") {
				found = append(found, l)
			}
		}
		return found[n]
	}
	keyOf := func(l string) string { return strings.Fields(l)[2] + " " }
	akOf := func(l string) string { return strings.Fields(l)[3] }
	for _, tc := range []struct{ name, old, new string }{
		{"nodes out of order", line("node", 0) + line("node", 1), line("node", 1) + line("node", 0)},
		{"a node twice", line("node", 1), line("node", 0)},
		{"two nodes with one key", keyOf(line("node", 1)), keyOf(line("node", 0))},
		{"two nodes with one TPM", akOf(line("node", 1)), akOf(line("node", 0))},
		{"a node without its TPM", " " + akOf(line("node", 0)), ""},
		{"a node with two TPMs", akOf(line("node", 0)), akOf(line("node", 0)) + " " + akOf(line("node", 1))},
		{"a TPM of zeroes", akOf(line("node", 0)), "ak:" + strings.Repeat("0", 64)},
		{"a member's key for a node", keyOf(line("node", 0)), "node-ed25519:" + memberKey(line("member", 0)) + " "},
		{"a member twice", line("member", 1), line("member", 0)},
		{"members out of order", line("member", 0) + line("member", 1), line("member", 1) + line("member", 0)},
		{"no member", line("member", 0) + line("member", 1) + line("member", 2), ""},
		{"no node", line("node", 0) + line("node", 1) + line("node", 2) + line("node", 3), ""},
		{"a threshold of 0", "threshold 2", "threshold 0"},
		{"a threshold beyond the members", "threshold 2", "threshold 4"},
		{"a threshold with a leading zero", "threshold 2", "threshold 02"},
		{"a negative threshold", "threshold 2", "threshold -2"},
		{"capitals in a node's name", "node node-1", "node Node-1"},
		{"an altered member key hash", "member ada+", "member bda+"},
		{"a setting twice", "setting trust-disks=true\n", "setting trust-disks=true\nsetting trust-disks=true\n"},
		{"a setting of two values", "setting trust-disks=true\n", "setting trust-disks=false\nsetting trust-disks=true\n"},
		{"a setting without a value", "setting trust-disks=true", "setting trust-disks"},
		{"an unknown line", "threshold 2", "founder ada\nthreshold 2"},
		{"another kind", "keystead-genesis/1", "keystead-genesis/2"},
		{"spaces", "name example", "name  example"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			spoilt := strings.Replace(good, tc.old, tc.new, 1)
			if spoilt == good {
				t.Fatal("nothing was spoilt")
			}
			_, err := receipt.ParseGenesis([]byte(spoilt))
			var f *keystead.FormatError
			if !errors.As(err, &f) {
				t.Errorf("want a FormatError, got %v", err)
			}
		})
	}
}

// memberKey returns the bare base64 key of a member's line.
func memberKey(l string) string {
	k := strings.TrimSpace(l)
	raw, _ := base64.StdEncoding.DecodeString(k[len(k)-44:])
	return base64.StdEncoding.EncodeToString(raw[1:])
}

func TestLeafHashIsRFC6962(t *testing.T) {
	// RFC 6962, section 2.1: SHA-256 of a zero byte and the entry.
	entry := receipt.Header(receipt.KindTransaction)
	if receipt.LeafHash(entry) != keystead.Sum(append([]byte{0}, entry...)) {
		t.Error("the leaf hash is not that of RFC 6962")
	}
}

func fuzzSeeds(f *testing.F) {
	for _, file := range []string{"put.tlog-proof", "roster.tlog-proof", "rekey.tlog-proof", "consistency.txt"} {
		f.Add(read(f, file))
	}
	r, err := receipt.Parse(read(f, "rekey.tlog-proof"))
	if err != nil {
		f.Fatal(err)
	}
	for _, e := range r.Chain { // the genesis, members' change, a rekey
		f.Add(e)
	}
	f.Add(r.Checkpoint)
}

// FuzzParse gives every parser of this package the same bytes: none may panic,
// and what is accepted has one spelling.
func FuzzParse(f *testing.F) {
	fuzzSeeds(f)
	v := receipt.NewVerifier(domain(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := receipt.Parse(b); err == nil {
			if !bytes.Equal(r.Bytes(), b) {
				t.Errorf("a receipt has two spellings:\n%s\n%s", b, r.Bytes())
			}
			v.VerifyReceipt(r)
		}
		if c, err := receipt.ParseConsistency(b); err == nil {
			if !bytes.Equal(c.Bytes(), b) {
				t.Errorf("a consistency proof has two spellings:\n%s\n%s", b, c.Bytes())
			}
			v.VerifyConsistency(c)
		}
		if h, err := receipt.ParseCheckpoint(b); err == nil && !bytes.HasPrefix(b, h.Text()) {
			t.Errorf("a checkpoint has two spellings:\n%s\n%s", b, h.Text())
		}
		if g, err := receipt.ParseGenesis(b); err == nil {
			if text, err := g.Text(); err != nil || !bytes.HasPrefix(b[receipt.HeaderSize:], text) {
				t.Errorf("a genesis has two spellings: %v\n%s", err, b)
			}
		}
		if c, err := receipt.ParseChange(b); err == nil {
			if text, err := c.Text(); err != nil || !bytes.HasPrefix(b[receipt.HeaderSize:], text) {
				t.Errorf("a roster has two spellings: %v\n%s", err, b)
			}
		}
		receipt.Split(b)
	})
}
