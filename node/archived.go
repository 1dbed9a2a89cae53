package node

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/archive"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/keyring"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

// archiveContract owns the keys that say who read archived evidence: archive/read/ and
// the digest of the reading's text. Only nodes write them.
const archiveContract = "archive"

// secretTime is how long an admission waits for the epoch's secret, under which the
// evidence is archived.
const secretTime = 5 * time.Second

// archivist keeps what admissions were judged by, for those whom members let read it.
type archivist struct {
	*admission
	keys     *agreement
	archives *archives
	readings chan struct{} // one place
	planner  planner
}

// archiveEvidence archives what an admission was judged by, before this node endorses it:
// so whatever takes effect is archived by a majority.
func (n *archivist) archiveEvidence(ctx context.Context, x evidenceCase, d admit.Decision) error {
	var keep time.Duration
	err := n.snapshot(func(v ledger.View) (err error) { keep, err = admit.ArchiveTime(v); return err })
	if err != nil || keep == 0 {
		return err
	}
	record, ok := d.Record()
	if !ok {
		return errors.New("a decision that admits has a record")
	}
	if err := n.keepTerms(ctx, record.Role, record.Terms); err != nil {
		return err
	}
	if n.archives.has(record.Verdict) {
		return nil
	}
	k := make([]byte, archive.KeySize)
	_, _ = rand.Read(k) // never fails
	defer clear(k)
	sealed, label, err := archive.Seal(n.cfg.Domain, &archive.Record{Host: x.host, Verdict: record.Verdict, Terms: record.Terms, Time: record.Issued, Tick: x.tick,
		Build: Build(n.opts.Version), Bundle: x.bundle.Bytes()}, k)
	if err != nil {
		return err
	}
	err = n.withSecret(ctx, func(st keyring.State) error {
		label.Epoch, label.Wrapped, err = n.keys.keyring.WrapRecord(st, label.About(), k, rand.Reader)
		return err
	})
	if err != nil {
		return err
	}
	return n.archives.put(&label, sealed)
}

// withSecret does what takes an epoch's secret, once this node has one.
func (n *archivist) withSecret(ctx context.Context, do func(keyring.State) error) error {
	ctx, cancel := context.WithTimeout(ctx, secretTime)
	defer cancel()
	var last error
	err := n.until(ctx, func(v ledger.View) (bool, error) {
		if last = do(onLedger{v}); errors.Is(last, keystead.ReasonSecretMissing) {
			return false, nil
		}
		return true, last
	})
	if err != nil && last != nil {
		return last
	}
	return err
}

// Build names a build, by the version of the program and of Go: verdicts of one build are
// the same bytes for the same inputs.
func Build(version string) string { return version + " " + runtime.Version() }

// keepTerms keeps the terms' text and every object that it names for good, once: the
// objects of all admissions together. Terms that are no longer in force are
// subject-changed.
func (n *archivist) keepTerms(ctx context.Context, role string, d keystead.Digest) error {
	if known, ok := n.archives.terms.Load(role); ok && known == d {
		return nil
	}
	f, err := n.inForce(role)
	if err != nil {
		return err
	}
	if f.Digest != d {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonSubjectChanged, Where: "terms", Want: f.Digest.String(), Got: d.String()})
	}
	if f.Text != nil && !n.objects.kept(d) {
		if _, err := n.objects.put(bytes.NewReader(f.Text), n.now()); err != nil {
			return err
		}
	}
	text, err := n.keepObject(ctx, d, admit.ObjectCodeSet) // a note, as that is
	if err != nil {
		return err
	}
	terms, err := admit.ParseTerms(text)
	if err != nil {
		return err
	}
	for _, o := range terms.Objects() {
		if _, err := n.keepObject(ctx, o.Digest, o.Kind); err != nil {
			return err
		}
	}
	n.archives.terms.Store(role, d)
	return nil
}

// keepObject returns an object, which is kept here for good from then on.
func (n *archivist) keepObject(ctx context.Context, d keystead.Digest, kind string) ([]byte, error) {
	b, err := n.public(ctx, d, mostOf(kind))
	if err == nil {
		err = n.objects.keep(d)
	}
	return b, err
}

// maxReading bounds a signed reading, in bytes.
const maxReading = 64 << 10

// ReadArchive implements serve.Archive: it gives the record of the admission at a leaf to
// who asks with the signatures of members whom the domain names. The reading is on the
// ledger before anything is answered, so none serves twice, and each is known.
func (n *archivist) ReadArchive(ctx context.Context, leaf uint64, signed []byte) ([]byte, error) {
	if len(signed) > maxReading {
		return nil, &keystead.FormatError{Format: string(key.KindReading), Field: "whole", Problem: fmt.Sprintf("is %d bytes long, at most %d are accepted", len(signed), maxReading)}
	}
	if err := n.mayGrant(ctx); err != nil {
		return nil, err
	}
	select { // one record at a time is in memory, which is as large as its bundle
	case n.readings <- struct{}{}:
		defer func() { <-n.readings }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	var verdict keystead.Digest
	if err := n.snapshot(func(v ledger.View) (err error) { verdict, err = n.mayRead(v, leaf, signed); return err }); err != nil {
		return nil, err
	}
	r, err := n.unseal(verdict)
	if err != nil {
		return nil, err
	}
	if err := n.noteReading(ctx, signed); err != nil {
		return nil, err
	}
	n.log.Info("archived evidence read", "host", r.Host, "verdict", verdict)
	return r.Bytes(), nil
}

// unseal opens the archived record of a verdict.
func (n *archivist) unseal(verdict keystead.Digest) (archive.Record, error) {
	label, sealed, err := n.archives.get(verdict)
	if err != nil {
		return archive.Record{}, err
	}
	var k []byte
	err = n.snapshot(func(v ledger.View) (err error) {
		k, err = n.keys.keyring.UnwrapRecord(onLedger{v}, label.Epoch, label.About(), label.Wrapped)
		return err
	})
	if err != nil {
		return archive.Record{}, err
	}
	defer clear(k)
	r, err := archive.Open(n.cfg.Domain, &label, sealed, k)
	if err == nil && r.Verdict != verdict {
		err = keystead.Deny(keystead.Finding{Reason: keystead.ReasonArchiveAltered, Where: "archived record " + verdict.String(), Want: verdict.String(), Got: r.Verdict.String()})
	}
	return r, err
}

// mayRead returns the verdict of the admission at a leaf, if those who signed may read
// what it was made of now.
func (n *archivist) mayRead(v ledger.View, leaf uint64, signed []byte) (verdict keystead.Digest, err error) {
	status, err := v.Status()
	if err != nil {
		return verdict, err
	}
	if leaf >= status.Size {
		return verdict, ledger.LeafFuture(leaf, status.Size)
	}
	entry, err := v.Entry(leaf)
	if err != nil {
		return verdict, err
	}
	roster, _, _ := n.machine.roster()
	if _, err := admit.OpenReading(v, n.cfg.Domain, receipt.LeafHash(entry), &roster, signed); err != nil {
		return verdict, err
	}
	at, err := noted(signed)
	if err != nil {
		return verdict, err
	}
	if served, err := v.Get(at); err != nil || served.Version != 0 { // before anything is opened: readings are public once they served
		return verdict, cmp.Or(err, readingServed(at))
	}
	a, err := archive.ReadAdmission(entry)
	if err != nil {
		return verdict, err
	}
	keep, err := admit.ArchiveTime(v)
	if err != nil {
		return verdict, err
	}
	if end := a.Record.Issued + uint64(keep.Milliseconds()); status.Clock >= end {
		return verdict, keystead.Deny(keystead.Finding{Reason: keystead.ReasonArchiveExpired, Where: "evidence of host " + a.Host, Want: fmt.Sprintf("evidence of the last %d days", int(keep.Hours())/24), Got: "evidence of " + time.UnixMilli(int64(a.Record.Issued)).UTC().Format(time.RFC3339)})
	}
	return a.Record.Verdict, nil
}

// noteReading writes a reading to the ledger, unless it is there: then it served.
func (n *archivist) noteReading(ctx context.Context, signed []byte) error {
	at, err := noted(signed)
	if err != nil {
		return err
	}
	err = n.transact(ctx, archiveContract, []ledger.Write{{Key: at, Value: signed}}, ledger.Condition{Key: at})
	if errors.Is(err, keystead.ReasonConditionFailed) {
		err = readingServed(at)
	}
	return err
}

// noted is the key under which the ledger has a reading that served.
func noted(signed []byte) (string, error) {
	text, _, err := key.Peek(signed)
	d := keystead.Sum(text)
	return archiveContract + "/read/" + hex.EncodeToString(d[:]), err
}

func readingServed(at string) error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonRequestReplayed, Where: "reading", Want: "one that did not serve yet", Got: at + " is on the ledger"})
}

// archiveLoop destroys the records whose time is over.
func (n *archivist) archiveLoop() {
	every := time.NewTicker(sweepEvery)
	defer every.Stop()
	for {
		if err := n.sweepArchive(); err != nil {
			n.log.Error("archived evidence not destroyed in time", "because", err)
		}
		select {
		case <-every.C:
		case <-n.running.Done():
			return
		}
	}
}

func (n *archivist) sweepArchive() error {
	var clock uint64
	var keep time.Duration
	err := n.snapshot(func(v ledger.View) (err error) {
		if clock, err = v.Clock(); err == nil {
			keep, err = admit.ArchiveTime(v)
		}
		return err
	})
	ms := uint64(keep.Milliseconds())
	if err != nil || clock <= ms {
		return err
	}
	destroyed, err := n.archives.sweep(clock - ms + 1)
	if destroyed > 0 {
		n.log.Info("archived evidence destroyed, as the domain wants", "records", destroyed)
	}
	return err
}
