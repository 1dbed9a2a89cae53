package node_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/archive"
	"github.com/keystead/keystead/receipt"
)

// grace has members set the founding terms for hosts anew, with a time up to which the
// reference set counts; the terms' text is returned.
func (f *field) grace(until time.Time) []byte {
	f.t.Helper()
	terms, err := admit.ParseTerms(f.objects[len(f.objects)-2]) // for hosts; the last are for nodes
	if err != nil {
		f.t.Fatal(err)
	}
	terms.Domain, terms.Base = f.digest, f.version(admit.TypeTerms, admit.RoleHost)
	terms.Until = map[keystead.Digest]time.Time{terms.References[0]: until}
	text, err := terms.Text()
	if err == nil {
		err = f.decree(admit.TypeTerms, admit.RoleHost, text)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return text
}

// TestGraceEnds has the time of a reference set run out on a domain of three nodes, by
// the domain's clock: a host that rests on the set is renewed before, and refused and
// suspended on all nodes after, also by what its logs have gained alone. An admission
// from within the grace is recomputed bit by bit when it is over.
func TestGraceEnds(t *testing.T) {
	t.Parallel()
	f := newField(t, 3, "trust-disks=true")
	if err := f.set(admit.ArchiveReaders, 1, f.member.Public().Name()); err != nil {
		t.Fatal(err)
	}
	h := f.host("web-1")
	if err := f.enrol("web-1", h.ek); err != nil {
		t.Fatal(err)
	}
	var until time.Time
	var text []byte
	var a *apiv1.AdmitResponse
	err := error(keystead.ReasonGraceEnded)
	for grace := 8 * time.Second; errors.Is(err, keystead.ReasonGraceEnded); grace *= 2 { // on a slow machine it may end before the admission
		clock := f.until(0, "a clock", func(s *apiv1.StatusResponse) bool { return s.GetDomainClockMs() > f.created }).GetDomainClockMs()
		until = time.UnixMilli(int64(clock)).UTC().Truncate(time.Second).Add(grace)
		text = f.grace(until)
		a, err = h.admit()
	}
	if err != nil {
		t.Fatal(err)
	}
	f.archivedByAll(a)
	h.everywhere()
	for i := range f.nodes {
		f.until(i, "a clock after the grace", func(s *apiv1.StatusResponse) bool {
			return s.GetDomainClockMs() >= uint64(until.UnixMilli())+2000
		})
	}
	if _, err := h.gained(a.GetReplayed()); !errors.Is(err, keystead.ReasonLogUnknown) {
		t.Errorf("a continuation of what was replayed in the grace: %v", err)
	}
	_, err = h.renew()
	if set := "reference set " + keystead.Sum(f.rec.Reference).String() + ", which counted until " + until.Format(time.RFC3339); !errors.Is(err, keystead.ReasonGraceEnded) ||
		!strings.Contains(err.Error(), " of package ") || !strings.Contains(err.Error(), set) {
		t.Errorf("the whole: %v", err)
	}
	h.refusedByAll(keystead.ReasonLeaseSuspended)
	late := f.host("web-2")
	if err := f.enrol("web-2", late.ek); err != nil {
		t.Fatal(err)
	}
	if err := late.connect(); !errors.Is(err, keystead.ReasonGraceEnded) {
		t.Errorf("a host that comes late shows evidence: %v", err)
	}

	raw, err := f.client("n2").ReadArchive(f.ctx, a.GetLeaf(), f.reading(keystead.Digest(a.GetTransactionId()), time.Minute, f.member))
	if err != nil {
		t.Fatal(err)
	}
	record, err := archive.ParseRecord(raw)
	if err != nil {
		t.Fatal(err)
	}
	file := f.exported(a.GetLeaf(), raw)
	file.Objects = append(slices.Clone(file.Objects), text)
	replayed, err := archive.Replay(receipt.NewVerifier(f.digest), &file, record.Build)
	if err != nil || replayed.Verdict.String() != a.GetLease().GetVerdict() {
		t.Errorf("replayed to %v: %v", replayed.Verdict, err)
	}

	if until = until.UTC(); !replayed.Time.Before(until) {
		t.Errorf("admitted at %v, in a grace until %v", replayed.Time, until)
	}
	f.grace(until.Add(time.Hour))
	h.readmitted()
}
