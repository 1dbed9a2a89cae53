package ledger_test

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/ledger"
)

// BenchmarkRenewals applies batches of 256 renewals each, of 100,000 hosts in turn:
// parsing, the Merkle root, two signatures, the leases, and the batch's content. One op
// is one renewal.
func BenchmarkRenewals(b *testing.B) {
	for _, kind := range []string{"nothing", "pebble"} {
		b.Run(kind, func(b *testing.B) { benchmarkRenewals(b, kind) })
	}
}

const renewedHosts = 100_000

func benchmarkRenewals(b *testing.B, kind string) {
	const size = 256
	d := newDomain(b, 3)
	versions := d.manyLeases()
	db := openPebble(b)
	fill := db.NewBatch()
	for k, v := range d.store.m {
		must(b, fill.Set([]byte(k), v, nil))
	}
	must(b, fill.Commit(pebble.NoSync))
	m, err := ledger.Open(db, d.id)
	must(b, err)
	var entries [][]byte
	for at := 0; at < b.N; at += size {
		var items []ledger.RenewalItem
		for i := at; i < min(at+size, b.N); i++ {
			host := i % renewedHosts
			x := d.item(hostName(host), versions[host], 60_001+uint64(i/renewedHosts)%29_000)
			items = append(items, x)
		}
		entries = append(entries, d.renewals(pair, items...))
	}
	index := uint64(len(d.log))
	perCore(b, "renewals", func() {
		for _, e := range entries {
			index++
			batch := db.NewBatch()
			var w ledger.Writer = pebbleBatch{batch}
			if kind == "nothing" {
				w = nothing{}
			}
			out, err := m.Apply([]ledger.Committed{{Index: index, Term: 1, Data: e}}, w)
			must(b, err)
			must(b, out.Results[0].Err)
			must(b, batch.Commit(pebble.NoSync))
		}
	})
}

func hostName(i int) string { return fmt.Sprintf("host-%06d", i) }

// manyLeases admits renewedHosts hosts, many with one entry, and returns the versions.
func (d *domain) manyLeases() []uint64 {
	d.t.Helper()
	versions := make([]uint64, renewedHosts)
	const each = 1000
	for at := 0; at < renewedHosts; at += each {
		var writes []ledger.Write
		for i := at; i < at+each; i++ {
			writes = append(writes, leaseWrite(hostName(i), d.machine.Clock(), d.machine.Clock()+60_000, 1))
		}
		version := d.effect(admit.TypeLease, fmt.Sprint("many-", at), writes...)
		for i := at; i < at+each; i++ {
			versions[i] = version
		}
	}
	return versions
}

// BenchmarkOpenWithLeases opens a store with 100,000 leases: one op is one host.
func BenchmarkOpenWithLeases(b *testing.B) {
	d := newDomain(b, 3)
	d.manyLeases()
	d.store.Scan([]byte{0}, []byte{1}, func(_, _ []byte) bool { return true }) // sorts its keys
	perCore(b, "hosts", func() {
		for range b.N/renewedHosts + 1 {
			_, err := ledger.Open(d.store, d.id)
			must(b, err)
		}
	})
}
