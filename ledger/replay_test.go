package ledger_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

// The recorded ledger: each entry as index, term and offset (8 bytes each), the length of its
// data (4), and the data; in the order of the log.
const recordedLedger = "testdata/recorded.ledger.gz"

// TestRecordedLedger replays a ledger that an earlier build wrote, with entries of every kind:
// it leads to the same tree and the same state, key for key. What changes the figures of this
// test forks the domains that run.
func TestRecordedLedger(t *testing.T) {
	const (
		root  = "581fd1dd62007beb4acfb55841bd304c0bf69292fcf6c4df8a671ce2eeb2685d"
		state = "594ec809af87f3ee61705c4cae674f76db98259e88748ba3754adbb15fd48fca"
	)
	if *rewrite {
		must(t, os.WriteFile(recordedLedger, record(t), 0o644))
	}
	raw, err := os.ReadFile(recordedLedger)
	must(t, err)
	z, err := gzip.NewReader(bytes.NewReader(raw))
	must(t, err)
	b, err := io.ReadAll(io.LimitReader(z, 16<<20))
	must(t, err)
	var log []ledger.Committed
	kinds := map[receipt.Kind]int{}
	for len(b) > 0 {
		n := int(binary.BigEndian.Uint32(b[24:]))
		e := ledger.Committed{Index: binary.BigEndian.Uint64(b), Term: binary.BigEndian.Uint64(b[8:]), Offset: int(binary.BigEndian.Uint64(b[16:])), Data: b[28 : 28+n]}
		kind, _, err := receipt.Split(e.Data)
		must(t, err)
		kinds[kind]++
		log, b = append(log, e), b[28+n:]
	}
	for kind := receipt.KindGenesis; kind <= receipt.KindPosition; kind++ {
		if unknown := kind > receipt.KindRenewals && kind < receipt.KindPosition; kinds[kind] == 0 && !unknown {
			t.Errorf("no entry of kind %d (%s) is recorded", kind, kind)
		}
	}
	for _, batch := range []int{1, 7, len(log)} { // however it is cut
		d := &domain{t: t, store: newStore(), id: keystead.Sum(log[0].Data)}
		m, err := ledger.Open(d.store, d.id)
		must(t, err)
		for from := 0; from < len(log); from += batch {
			out := newBatch()
			_, err := m.Apply(log[from:min(from+batch, len(log))], out)
			must(t, err)
			d.store.commit(out)
		}
		h, err := m.Head(m.Size())
		must(t, err)
		if got := fmt.Sprintf("%x", h.Root[:]); got != root {
			t.Errorf("in batches of %d: root %s, recorded is %s", batch, got, root)
		}
		if got := d.state().String(); got != "sha256:"+state {
			t.Errorf("in batches of %d: state %s, recorded is sha256:%s", batch, got, state)
		}
	}
}

// record makes a ledger with entries of every kind.
func record(t *testing.T) []byte {
	d := newDomain(t, 3, "trust-disks=true", version4)
	d.ok(d.run(put("colour", "red"), put("shape", "round")))
	d.ok(d.tick(1000, "node-1", "node-2", "node-3"))
	d.checkpoint("node-1", "node-2", "node-3")
	p, v := d.ruling(admit.TypeSetting, "lease-seconds", ledger.Write{Key: admit.TypeSetting + "/lease-seconds", Value: []byte("60")})
	d.ok(p)
	e := d.endorse("node-2", v)
	d.ok(e.Entry())
	d.ok(d.effective(v, "node-1", "node-2"))
	lease, other := d.enrolled("web-1", 60_000), d.enrolled("web-2", 60_000)
	d.ok(d.earlyRenewals([]string{"node-1", "node-3"}, d.item("web-1", lease, 80_000)))
	d.ok(d.renewals([]string{"node-1", "node-2"}, d.item("web-1", lease, 90_000)))
	d.ok(d.suspension("node-3", "web-2", other, "file-altered"))
	rekey, _ := d.rekeyEntry("node-3", []string{"node-1", "node-2"})
	d.ok(rekey)
	d.checkpoint("node-2", "node-3")
	d.ok(d.change(without("node-3"), "ada", "cleo"))
	d.ok(d.run(put("colour", "blue")))
	at := d.position()
	for _, n := range []string{"node-1", "node-2"} {
		d.ok(d.stateDigest(n, at, "good"))
	}
	d.checkpoint("node-1", "node-2")
	var raw bytes.Buffer
	for _, e := range d.log {
		b := binary.BigEndian.AppendUint64(nil, e.Index)
		b = binary.BigEndian.AppendUint64(b, e.Term)
		b = binary.BigEndian.AppendUint64(b, uint64(e.Offset))
		b = binary.BigEndian.AppendUint32(b, uint32(len(e.Data)))
		raw.Write(append(b, e.Data...))
	}
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	must(t, err)
	_, err = z.Write(raw.Bytes())
	must(t, err)
	must(t, z.Close())
	return out.Bytes()
}
