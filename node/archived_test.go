package node_test

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/archive"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
)

// reading is a request to read the evidence of an admission, signed by keys.
func (f *field) reading(id keystead.Digest, until time.Duration, by ...key.Member) []byte {
	f.t.Helper()
	text, err := f.client("").Reading(f.ctx, id, uint64(until.Milliseconds()), "a test")
	if err != nil {
		f.t.Fatal(err)
	}
	for i, m := range by {
		if i == 0 {
			text, err = m.Sign(text)
		} else {
			text, err = m.Cosign(text)
		}
		if err != nil {
			f.t.Fatal(err)
		}
	}
	return text
}

// set has the member set a setting.
func (f *field) set(name string, value uint64, members ...string) error {
	f.t.Helper()
	text, err := (&admit.Setting{Domain: f.digest, Name: name, Base: f.version(admit.TypeSetting, name), Value: value, Members: members}).Text()
	if err != nil {
		f.t.Fatal(err)
	}
	return f.decree(admit.TypeSetting, name, text)
}

// archivedBy returns the files of an archived record on a node: sealed record and label.
func (f *field) archivedBy(i int, a *apiv1.AdmitResponse) (record, label string) {
	f.t.Helper()
	d, err := keystead.ParseDigest(a.GetLease().GetVerdict())
	if err != nil {
		f.t.Fatal(err)
	}
	at := filepath.Join(f.nodes[i].dir, "archive", hex.EncodeToString(d[:]))
	return at + ".record", at + ".label"
}

// archivedByAll waits until every node that can has archived an admission.
func (f *field) archivedByAll(a *apiv1.AdmitResponse) {
	f.t.Helper()
	deadline := time.Now().Add(patience)
	for i := range f.nodes {
		record, label := f.archivedBy(i, a)
		for !exists(record) || !exists(label) {
			if time.Now().After(deadline) {
				f.t.Fatalf("%s archived nothing", f.nodes[i].place.Name)
			}
			time.Sleep(20 * time.Millisecond) // between two looks at a directory
		}
	}
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

// exported gathers what a replay needs.
func (f *field) exported(leaf uint64, record []byte) archive.File {
	f.t.Helper()
	text, _, err := f.client("").Receipt(f.ctx, leaf)
	if err != nil {
		f.t.Fatal(err)
	}
	return archive.File{Receipt: text, Record: record, Objects: f.objects}
}

// TestArchive admits a host, and has its verdict recomputed from what the nodes
// archived; only who may reads that, and each request serves once.
func TestArchive(t *testing.T) {
	t.Parallel()
	f := newField(t, 3, "trust-disks=true")
	_, a := f.admitted("web-1")
	f.archivedByAll(a)
	id := keystead.Digest(a.GetTransactionId())
	read := func(node string, signed []byte) ([]byte, error) {
		return f.client(node).ReadArchive(f.ctx, a.GetLeaf(), signed)
	}
	refused := func(what string, reason keystead.Reason, signed []byte) {
		t.Helper()
		for _, p := range f.nodes {
			if _, err := read(p.place.Name, signed); !errors.Is(err, reason) {
				t.Errorf("%s, at %s: %v", what, p.place.Name, err)
			}
		}
	}
	refused("before anybody is named", keystead.ReasonReaderUnnamed, f.reading(id, time.Minute, f.member))
	if err := f.set(admit.ArchiveReaders, 1, "nobody.else"); !errors.Is(err, keystead.ReasonRuleFailed) {
		t.Errorf("a reader who is no member: %v", err)
	}
	if err := f.set(admit.ArchiveReaders, 1, f.member.Public().Name()); err != nil {
		t.Fatal(err)
	}
	stranger, err := key.NewMember(rand.Reader, f.member.Public().Name())
	if err != nil {
		t.Fatal(err)
	}
	refused("by a stranger of that name", keystead.ReasonNoteUnsigned, f.reading(id, time.Minute, stranger))
	refused("not signed", keystead.ReasonNoteUnsigned, f.reading(id, time.Minute))
	refused("of another admission", keystead.ReasonSubjectMismatch, f.reading(keystead.Sum(id[:]), time.Minute, f.member))
	refused("after its time", keystead.ReasonRequestExpired, f.reading(id, 0, f.member))
	refused("good for too long", keystead.ReasonRequestExpired, f.reading(id, 48*time.Hour, f.member))
	if _, err := f.client("").ReadArchive(f.ctx, 1<<40, f.reading(id, time.Minute, f.member)); !errors.Is(err, keystead.ReasonLeafFuture) {
		t.Errorf("a leaf of the future: %v", err)
	}

	signed := f.reading(id, time.Minute, f.member)
	raw, err := read("n2", signed)
	if err != nil {
		t.Fatal(err)
	}
	refused("a second time", keystead.ReasonRequestReplayed, signed)
	sealed, _ := f.archivedBy(0, a)
	if err := os.Rename(sealed, sealed+".away"); err != nil {
		t.Fatal(err)
	}
	refused("a second time, which opens no record", keystead.ReasonRequestReplayed, signed)
	if err := os.Rename(sealed+".away", sealed); err != nil {
		t.Fatal(err)
	}
	r, err := archive.ParseRecord(raw)
	if err != nil || r.Host != "web-1" {
		t.Fatalf("%v, %v", r.Host, err)
	}
	file := f.exported(a.GetLeaf(), raw)
	again, err := archive.ParseFile(file.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	replayed, err := archive.Replay(receipt.NewVerifier(f.digest), &again, r.Build)
	if err != nil {
		t.Fatal(err)
	}
	if replayed.Verdict.String() != a.GetLease().GetVerdict() || replayed.Proven.ID != id || replayed.Host != "web-1" {
		t.Errorf("%v", replayed)
	}
	f.replayAltered(file, r)
	f.archiveAltered(a)

	if err := f.set(admit.ArchiveDays, 0); err != nil {
		t.Fatal(err)
	}
	late := f.reading(id, time.Minute, f.member)
	refused("when its time is over", keystead.ReasonArchiveExpired, late)
	deadline := time.Now().Add(patience)
	for i := range f.nodes {
		for _, path := range list(f.archivedBy(i, a)) {
			for exists(path) {
				if time.Now().After(deadline) {
					t.Fatalf("%s is still there", path)
				}
				time.Sleep(50 * time.Millisecond) // between two looks at a directory
			}
		}
	}
}

func list(a, b string) []string { return []string{a, b} }

// replayAltered replays with other inputs than those that the ledger names.
func (f *field) replayAltered(good archive.File, r archive.Record) {
	f.t.Helper()
	_, other := f.admitted("web-2")
	receipts := f.exported(other.GetLeaf(), nil)
	text := func(change func(*archive.Record)) []byte { x := r; change(&x); return x.Bytes() }
	for name, tc := range map[string]struct {
		change func(*archive.File)
		want   keystead.Reason
	}{
		"bundle altered": {func(x *archive.File) {
			x.Record = text(func(r *archive.Record) { r.Bundle = append(bytes.Clone(r.Bundle), 0) })
		}, keystead.ReasonArchiveAltered},
		"another host":       {func(x *archive.File) { x.Record = text(func(r *archive.Record) { r.Host = "web-2" }) }, keystead.ReasonArchiveAltered},
		"another verdict":    {func(x *archive.File) { x.Record = text(func(r *archive.Record) { r.Verdict[0]++ }) }, keystead.ReasonArchiveAltered},
		"other terms":        {func(x *archive.File) { x.Record = text(func(r *archive.Record) { r.Terms[0]++ }) }, keystead.ReasonArchiveAltered},
		"another time":       {func(x *archive.File) { x.Record = text(func(r *archive.Record) { r.Time++ }) }, keystead.ReasonArchiveAltered},
		"record cut off":     {func(x *archive.File) { x.Record = x.Record[:len(x.Record)-1] }, keystead.ReasonMalformed},
		"another's receipt":  {func(x *archive.File) { x.Receipt = receipts.Receipt }, keystead.ReasonArchiveAltered},
		"no objects":         {func(x *archive.File) { x.Objects = nil }, keystead.ReasonObjectMissing},
		"without the policy": {func(x *archive.File) { x.Objects = x.Objects[1:] }, keystead.ReasonObjectMissing},
		"policy altered": {func(x *archive.File) {
			x.Objects = append([][]byte{append(bytes.Clone(x.Objects[0]), '\n')}, x.Objects[1:]...)
		}, keystead.ReasonObjectMissing},
		"a receipt of no lease": {func(x *archive.File) { x.Receipt = f.founding() }, keystead.ReasonSubjectMismatch},
	} {
		x := archive.File{Receipt: good.Receipt, Record: good.Record, Objects: good.Objects}
		tc.change(&x)
		_, err := archive.Replay(receipt.NewVerifier(f.digest), &x, r.Build)
		var format *keystead.FormatError
		if !errors.Is(err, tc.want) && !(tc.want == keystead.ReasonMalformed && errors.As(err, &format)) {
			f.t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := archive.Replay(receipt.NewVerifier(keystead.Sum(nil)), &good, r.Build); !errors.Is(err, keystead.ReasonDomainMismatch) {
		f.t.Errorf("in another domain: %v", err)
	}
}

// founding is the receipt of the genesis entry.
func (f *field) founding() []byte {
	f.t.Helper()
	text, _, err := f.client("").Receipt(f.ctx, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	return text
}

// archiveAltered has somebody who writes to nodes' disks change what is archived.
func (f *field) archiveAltered(a *apiv1.AdmitResponse) {
	t := f.t
	t.Helper()
	_, b := f.admitted("web-3")
	f.archivedByAll(b)
	record, label := f.archivedBy(0, a)
	otherRecord, otherLabel := f.archivedBy(0, b)
	load := func(path string) []byte {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	goodRecord, goodLabel := load(record), load(label)
	flipped := bytes.Clone(goodRecord)
	flipped[100] ^= 1
	relabelled := bytes.Clone(goodLabel)
	relabelled[len(relabelled)-1] ^= 1
	moved := bytes.Clone(load(otherLabel)) // with this record's name on it
	copy(moved[3+len("web-1"):], goodLabel[3+len("web-1"):3+len("web-1")+32])
	id := keystead.Digest(a.GetTransactionId())
	for name, tc := range map[string]struct {
		record, label []byte
		want          keystead.Reason
	}{
		"altered":                   {flipped, goodLabel, keystead.ReasonArchiveAltered},
		"truncated":                 {goodRecord[:len(goodRecord)/2], goodLabel, keystead.ReasonArchiveAltered},
		"swapped with another's":    {load(otherRecord), goodLabel, keystead.ReasonArchiveAltered},
		"swapped with its label":    {load(otherRecord), load(otherLabel), keystead.ReasonArchiveAltered},
		"swapped, label renamed":    {load(otherRecord), moved, keystead.ReasonSealUnopened},
		"key altered":               {goodRecord, relabelled, keystead.ReasonSealUnopened},
		"label truncated":           {goodRecord, goodLabel[:20], keystead.ReasonArchiveAltered},
		"key destroyed":             {goodRecord, nil, keystead.ReasonArchiveKeyMissing},
		"record destroyed, not key": {nil, goodLabel, keystead.ReasonArchiveMissing},
	} {
		for path, content := range map[string][]byte{record: tc.record, label: tc.label} {
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			if content == nil {
				continue
			}
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := f.client("n1").ReadArchive(f.ctx, a.GetLeaf(), f.reading(id, time.Minute, f.member)); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := f.client("").ReadArchive(f.ctx, a.GetLeaf(), f.reading(id, time.Minute, f.member)); err != nil {
		t.Errorf("of another node: %v", err)
	}
}
