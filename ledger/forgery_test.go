package ledger_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

// grown is a domain of five nodes from which node-5 was removed, and node-4 after
// it, with entries between and a checkpoint at the end.
func grown(t testing.TB) *domain {
	d := newDomain(t, 5)
	d.ok(d.run(put("a", "1")))
	d.ok(d.change(without("node-5"), "ada", "ben"))
	d.ok(d.run(put("b", "2")))
	d.ok(d.change(without("node-4"), "ben", "cleo"))
	for i := range 300 {
		d.ok(d.run(put(fmt.Sprint("c", i), "3")))
	}
	d.checkpoint("node-1", "node-2")
	return d
}

// proof returns a good receipt of the leaf, to be spoilt.
func (d *domain) proof(leaf uint64) *receipt.Receipt {
	r, err := receipt.Parse(d.receipt(leaf))
	must(d.t, err)
	r.Chain = slices.Clone(r.Chain)
	return r
}

// signHead signs a head of the caller's making with node keys.
func (d *domain) signHead(h receipt.TreeHead, nodes ...string) []byte {
	out := append(h.Text(), '\n')
	for _, name := range nodes {
		k := d.keys[name]
		out = receipt.AppendSignature(out, receipt.Node{Name: name, Key: k.Public()}, h.Sign(k))
	}
	return out
}

func TestForgedReceipts(t *testing.T) {
	d := grown(t)
	other := newDomain(t, 4)
	other.ok(other.run(put("a", "1")))
	other.checkpoint("node-1", "node-2", "node-3")
	head, err := d.machine.Head(d.machine.Size())
	must(t, err)
	old := head // a head that claims the roster before the removals
	old.Roster, old.Entry = 0, d.id
	for _, tc := range []struct {
		name  string
		spoil func(r *receipt.Receipt)
		want  keystead.Reason
	}{
		{"another entry", func(r *receipt.Receipt) { r.Entry = d.run(put("a", "forged")) }, keystead.ReasonProofInvalid},
		{"a bit of the entry", func(r *receipt.Receipt) { r.Entry = flip(r.Entry, len(r.Entry)-1) }, keystead.ReasonProofInvalid},
		{"entry cut short", func(r *receipt.Receipt) { r.Entry = r.Entry[:len(r.Entry)-1] }, keystead.ReasonProofInvalid},
		{"entry extended", func(r *receipt.Receipt) { r.Entry = append(bytes.Clone(r.Entry), 0) }, keystead.ReasonProofInvalid},
		{"leaf swapped for its neighbour's", func(r *receipt.Receipt) { r.Entry = d.proof(r.Index + 1).Entry }, keystead.ReasonProofInvalid},
		{"another index", func(r *receipt.Receipt) { r.Index++ }, keystead.ReasonProofInvalid},
		{"an index beyond the tree", func(r *receipt.Receipt) { r.Index = 1 << 40 }, keystead.ReasonProofInvalid},
		{"path cut short", func(r *receipt.Receipt) { r.Path = r.Path[1:] }, keystead.ReasonProofInvalid},
		{"path extended", func(r *receipt.Receipt) { r.Path = append(r.Path, r.Path[0]) }, keystead.ReasonProofInvalid},
		{"path reordered", func(r *receipt.Receipt) { r.Path[0], r.Path[1] = r.Path[1], r.Path[0] }, keystead.ReasonProofInvalid},
		{"an inner node as the leaf", func(r *receipt.Receipt) {
			r.Entry = append(receipt.Header(receipt.KindTransaction), r.Path[0][:]...)
			r.Path = r.Path[1:]
		}, keystead.ReasonProofInvalid},
		{"a proposal", func(r *receipt.Receipt) { r.Entry = proposal(1, "setting", "x-seconds", 0, "1") }, keystead.ReasonUnprovable},
		{"a tick", func(r *receipt.Receipt) { r.Entry = d.tick(1, "node-1", "node-2") }, keystead.ReasonUnprovable},
		{"an entry of another version", func(r *receipt.Receipt) { r.Entry = append([]byte{9}, r.Entry[1:]...) }, keystead.ReasonVersionUnknown},

		{"a lie about the size", func(r *receipt.Receipt) {
			r.Checkpoint = bytes.Replace(r.Checkpoint, []byte("\n305\n"), []byte("\n304\n"), 1)
		}, keystead.ReasonSignatureInvalid},
		{"a lie about the root", func(r *receipt.Receipt) {
			h := head
			h.Root[0]++
			r.Checkpoint = slices.Concat(h.Text(), r.Checkpoint[bytes.Index(r.Checkpoint, []byte("\n\n"))+1:])
		}, keystead.ReasonSignatureInvalid},
		{"signed by a minority", func(r *receipt.Receipt) { r.Checkpoint = d.signHead(head, "node-1") }, keystead.ReasonMajorityMissing},
		{"signed by nobody known", func(r *receipt.Receipt) { r.Checkpoint = other.signHead(head, "node-4") }, keystead.ReasonMajorityMissing},
		{"one signature twice", func(r *receipt.Receipt) { r.Checkpoint = d.signHead(head, "node-1", "node-1") }, keystead.ReasonMajorityMissing},
		{"with the signature of a removed node", func(r *receipt.Receipt) { r.Checkpoint = d.signHead(head, "node-1", "node-4") }, keystead.ReasonMajorityMissing},
		{"with the signatures of both removed nodes", func(r *receipt.Receipt) { r.Checkpoint = d.signHead(head, "node-1", "node-4", "node-5") }, keystead.ReasonMajorityMissing},
		{"a minority and removed nodes under the first roster", func(r *receipt.Receipt) {
			// node-1's honest signature names roster 2, so it does not verify over a head that names roster 0.
			honest, _ := d.machine.Head(head.Size)
			k := d.keys["node-1"]
			r.Checkpoint = d.signHead(old, "node-4", "node-5")
			r.Checkpoint = receipt.AppendSignature(r.Checkpoint, receipt.Node{Name: "node-1", Key: k.Public()}, honest.Sign(k))
			r.Chain = r.Chain[:1]
		}, keystead.ReasonSignatureInvalid},
		{"removed nodes alone under the first roster", func(r *receipt.Receipt) {
			r.Checkpoint, r.Chain = d.signHead(old, "node-4", "node-5"), r.Chain[:1]
		}, keystead.ReasonMajorityMissing},

		{"another domain's genesis", func(r *receipt.Receipt) { r.Chain[0] = other.genesis }, keystead.ReasonDomainMismatch},
		{"another domain's receipt", func(r *receipt.Receipt) { *r = *other.proof(1) }, keystead.ReasonDomainMismatch},
		{"another domain's checkpoint", func(r *receipt.Receipt) { r.Checkpoint = other.proof(1).Checkpoint }, keystead.ReasonDomainMismatch},
		{"no chain", func(r *receipt.Receipt) { r.Chain = nil }, keystead.ReasonRosterUnknown},
		{"no genesis", func(r *receipt.Receipt) { r.Chain = r.Chain[1:] }, keystead.ReasonRosterUnknown},
		{"the chain's end left out", func(r *receipt.Receipt) { r.Chain = r.Chain[:2] }, keystead.ReasonRosterUnknown},
		{"the chain's middle left out", func(r *receipt.Receipt) { r.Chain = slices.Delete(r.Chain, 1, 2) }, keystead.ReasonRosterBroken},
		{"the chain reordered", func(r *receipt.Receipt) { r.Chain[1], r.Chain[2] = r.Chain[2], r.Chain[1] }, keystead.ReasonRosterBroken},
		{"the genesis at the chain's end", func(r *receipt.Receipt) { r.Chain = append(r.Chain, r.Chain[0]) }, keystead.ReasonRosterBroken},
		{"a transaction in the chain", func(r *receipt.Receipt) { r.Chain[1] = r.Entry }, keystead.ReasonRosterBroken},
		{"an altered roster", func(r *receipt.Receipt) {
			r.Chain[1] = bytes.Replace(r.Chain[1], []byte("threshold 2"), []byte("threshold 1"), 1)
		}, keystead.ReasonSignatureInvalid},
		{"a roster by one member", func(r *receipt.Receipt) { r.Chain[1] = cutSignature(r.Chain[1]) }, keystead.ReasonThresholdMissing},
		{"another roster than the checkpoint's", func(r *receipt.Receipt) {
			c := d.nextChange(without("node-3"))
			c.Sequence, c.After = 2, keystead.Sum(r.Chain[1])
			text, _ := c.Text()
			r.Chain[2], _ = receipt.NoteEntry(d.sign(text, "ada", "ben"))
		}, keystead.ReasonRosterBroken},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := d.proof(100)
			tc.spoil(r)
			_, err := receipt.NewVerifier(d.id).Verify(r.Bytes())
			wantReason(t, err, tc.want)
			warm := receipt.NewVerifier(d.id) // one that knows the domain is no easier to fool
			_, err = warm.Verify(d.receipt(7))
			must(t, err)
			if _, err := warm.Verify(r.Bytes()); err == nil && len(r.Chain) == 3 {
				t.Error("a verifier that had verified another receipt accepted it")
			}
		})
	}
}

func flip(b []byte, i int) []byte {
	b = bytes.Clone(b)
	b[i] ^= 1
	return b
}

// cutSignature drops a note's last line.
func cutSignature(entry []byte) []byte {
	return entry[:bytes.LastIndexByte(entry[:len(entry)-1], '\n')+1]
}

// TestRemovedSignerIsNamed wants the refusal to say whose signature did not count.
func TestRemovedSignerIsNamed(t *testing.T) {
	d := grown(t)
	head, err := d.machine.Head(d.machine.Size())
	must(t, err)
	r := d.proof(3)
	r.Checkpoint = d.signHead(head, "node-1", "node-5")
	_, err = receipt.NewVerifier(d.id).VerifyReceipt(r)
	if !errors.Is(err, keystead.ReasonSignerUnknown) {
		t.Errorf("want signer-unknown among the findings, got %v", err)
	}
	f := err.(*keystead.DenyError).Findings
	if f[0].Want != "signatures of 2 of 3 nodes" || f[0].Got != "1 (node-1)" || !strings.Contains(f[1].Got, "node-5") {
		t.Errorf("findings: %v", f)
	}
}

const base64Digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

// TestReceiptTextIsStrict spoils every byte of a receipt: none may still be
// accepted as the same statement.
func TestReceiptTextIsStrict(t *testing.T) {
	d := newDomain(t, 1)
	d.ok(d.run(put("a", "1")))
	d.checkpoint("node-1")
	text := d.receipt(1)
	for i := range text {
		spoilt := flip(text, i)
		if _, err := receipt.NewVerifier(d.id).Verify(spoilt); err == nil {
			t.Errorf("byte %d may be %q in place of %q", i, spoilt[i], text[i])
		}
		if n := strings.IndexByte(base64Digits, text[i]); n >= 0 && i > 0 { // the last bit of a digit, which may be unused
			spoilt[i] = base64Digits[n^1]
			if _, err := receipt.NewVerifier(d.id).Verify(spoilt); err == nil {
				t.Errorf("byte %d may be %q in place of %q", i, spoilt[i], text[i])
			}
		}
		if _, err := receipt.NewVerifier(d.id).Verify(text[:i]); err == nil {
			t.Errorf("accepted when cut after %d bytes", i)
		}
	}
	if _, err := receipt.NewVerifier(d.id).Verify(append(bytes.Clone(text), "more\n"...)); err == nil {
		t.Error("accepted with a line more")
	}
}

func TestShortReceipts(t *testing.T) {
	d := grown(t)
	v := receipt.NewVerifier(d.id)
	full, short := d.proof(1), d.proof(3)
	short.Chain = nil
	_, err := v.VerifyReceipt(short)
	wantReason(t, err, keystead.ReasonRosterUnknown)
	_, err = v.VerifyReceipt(full)
	must(t, err)
	_, err = v.VerifyReceipt(short)
	must(t, err)
	if n := len(short.Bytes()); n > 1300 {
		t.Errorf("a short receipt under two signatures has %d bytes", n)
	}
}

func TestOldRoster(t *testing.T) {
	d := newDomain(t, 3)
	d.ok(d.run(put("a", "1")))
	d.checkpoint("node-1", "node-3")
	before := d.receipt(1)
	d.ok(d.change(without("node-3"), "ada", "ben"))
	d.checkpoint("node-1", "node-2")
	v := receipt.NewVerifier(d.id)
	for _, r := range [][]byte{before, d.receipt(1), before} {
		_, err := v.Verify(r)
		must(t, err) // what the first roster signed in its time stays true
	}
	v.RequireRoster(1)
	_, err := v.Verify(before)
	wantReason(t, err, keystead.ReasonRosterOld)
	_, err = v.Verify(d.receipt(1))
	must(t, err)
}

// TestForks shows a verifier two histories that are both signed well.
func TestForks(t *testing.T) {
	one, two := newDomain(t, 3), newDomain(t, 3)
	one.ok(one.run(put("a", "1")))
	two.ok(two.run(put("a", "2")))
	v := receipt.NewVerifier(one.id)
	one.checkpoint("node-1", "node-2")
	two.checkpoint("node-2", "node-3")
	_, err := v.Verify(one.receipt(1))
	must(t, err)
	_, err = v.Verify(two.receipt(1))
	wantReason(t, err, keystead.ReasonCheckpointConflict)

	one.ok(one.change(without("node-3"), "ada", "ben"))
	two.ok(two.change(without("node-2"), "ada", "ben"))
	one.checkpoint("node-1", "node-2")
	two.checkpoint("node-1", "node-3")
	_, err = v.Verify(one.receipt(2))
	must(t, err)
	_, err = v.Verify(two.receipt(2))
	wantReason(t, err, keystead.ReasonRosterConflict)
}

func TestConsistency(t *testing.T) {
	d := newDomain(t, 3)
	var notes [][]byte
	for size := 1; size < 600; size += 37 {
		for int(d.machine.Size()) < size {
			d.ok(d.run(put("a", "1")))
		}
		d.checkpoint("node-1", "node-2")
		note, err := ledger.NewView(d.store).Checkpoint()
		must(t, err)
		notes = append(notes, note)
	}
	d.ok(d.change(without("node-2"), "ada", "ben"))
	d.checkpoint("node-1", "node-3")
	p, err := ledger.NewProver(d.store)
	must(t, err)
	for _, old := range notes {
		c, err := p.Consistency(old)
		must(t, err)
		again, err := receipt.ParseConsistency(c.Bytes())
		must(t, err)
		from, to, err := receipt.NewVerifier(d.id).VerifyConsistency(again)
		must(t, err)
		if from.Size >= to.Size || to != p.Head() {
			t.Errorf("%+v, %+v", from, to)
		}
	}
	good, err := p.Consistency(notes[3])
	must(t, err)
	head, err := receipt.ParseCheckpoint(notes[3])
	must(t, err)
	head.Root[0]++
	for name, tc := range map[string]struct {
		spoil func(c *receipt.Consistency)
		want  keystead.Reason
	}{
		"rewritten history": {func(c *receipt.Consistency) { c.Old = d.signHead(head, "node-1", "node-2") }, keystead.ReasonProofInvalid},
		"path cut short":    {func(c *receipt.Consistency) { c.Path = c.Path[1:] }, keystead.ReasonProofInvalid},
		"path extended":     {func(c *receipt.Consistency) { c.Path = append(c.Path, c.Path[0]) }, keystead.ReasonProofInvalid},
		"exchanged":         {func(c *receipt.Consistency) { c.Old, c.New = c.New, c.Old }, keystead.ReasonProofInvalid},
		"old one unsigned":  {func(c *receipt.Consistency) { c.Old = d.signHead(head, "node-1") }, keystead.ReasonMajorityMissing},
	} {
		t.Run(name, func(t *testing.T) {
			c := *good
			c.Path = slices.Clone(good.Path)
			tc.spoil(&c)
			_, _, err := receipt.NewVerifier(d.id).VerifyConsistency(&c)
			wantReason(t, err, tc.want)
		})
	}
}
