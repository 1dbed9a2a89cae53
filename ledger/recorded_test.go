package ledger_test

import (
	"bytes"
	"os"
	"testing"

	"github.com/keystead/keystead/ledger"
)

// TestRecordedReceipts holds the receipts in receipt/testdata, on which that
// package's tests and example work, to what this package makes.
func TestRecordedReceipts(t *testing.T) {
	d := newDomain(t, 4, "trust-disks=true")
	d.ok(d.run(put("colour", "red")))
	d.checkpoint("node-1", "node-2", "node-3")
	old, err := ledger.NewView(d.store).Checkpoint()
	must(t, err)
	d.ok(d.change(without("node-4"), "ada", "cleo"))
	d.ok(d.run(put("colour", "blue")))
	d.checkpoint("node-1", "node-3")
	p, err := ledger.NewProver(d.store)
	must(t, err)
	c, err := p.Consistency(old)
	must(t, err)
	recorded := map[string][]byte{
		"put.tlog-proof":    d.receipt(1),
		"roster.tlog-proof": d.receipt(2),
		"consistency.txt":   c.Bytes(),
	}
	rekey, _ := d.rekeyEntry("node-3", []string{"node-1", "node-2"})
	d.ok(rekey)
	d.checkpoint("node-2", "node-3")
	recorded["rekey.tlog-proof"] = d.receipt(4)
	for file, is := range recorded {
		file = "../receipt/testdata/" + file
		if *rewrite {
			must(t, os.WriteFile(file, is, 0o644))
		}
		was, err := os.ReadFile(file)
		must(t, err)
		if !bytes.Equal(was, is) {
			t.Errorf("%s differs; -rewrite shows how. It would be:\n%s", file, is)
		}
	}
}
