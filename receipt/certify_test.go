package receipt_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/internal/forger"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
)

// house is a domain of three nodes with made-up TPMs and one member.
type house struct {
	t       *testing.T
	member  key.Member
	keys    map[string]*key.Node
	genesis receipt.Genesis
	entry   []byte
	id      keystead.Digest
}

func newHouse(t *testing.T, settings []string, aks ...key.AKDigest) *house {
	t.Helper()
	h := &house{t: t, keys: map[string]*key.Node{}}
	var err error
	if h.member, err = key.NewMember(constant(200), "ada"); err != nil {
		t.Fatal(err)
	}
	h.genesis = receipt.Genesis{Name: "house", Created: 1, Settings: settings, Roster: receipt.Roster{Threshold: 1, Members: []key.MemberPublic{h.member.Public()}}}
	for i, ak := range aks {
		name := "n" + string(rune('1'+i))
		h.keys[name] = nodeKey(t, byte(i+1))
		h.genesis.Roster.Nodes = append(h.genesis.Roster.Nodes, receipt.Node{Name: name, Key: h.keys[name].Public(), AK: ak})
	}
	text, err := h.genesis.Text()
	if err != nil {
		t.Fatal(err)
	}
	h.entry = h.bySigned(text)
	h.id = keystead.Sum(h.entry)
	return h
}

// constant reads as that byte for ever.
type constant byte

func (c constant) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(c)
	}
	return len(b), nil
}

func nodeKey(t *testing.T, seed byte) *key.Node {
	t.Helper()
	k, err := key.NewNode(constant(seed))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// bySigned makes an entry that the member signed.
func (h *house) bySigned(text []byte) []byte {
	h.t.Helper()
	signed, err := h.member.Sign(text)
	if err != nil {
		h.t.Fatal(err)
	}
	entry, err := receipt.NoteEntry(signed)
	if err != nil {
		h.t.Fatal(err)
	}
	return entry
}

// byNodes makes an entry that nodes signed with the keys that they have.
func (h *house) byNodes(text []byte, nodes ...string) []byte {
	h.t.Helper()
	signed := append(bytes.Clone(text), '\n')
	for _, n := range nodes {
		signed = receipt.AppendSignature(signed, receipt.Node{Name: n, Key: h.keys[n].Public()}, h.keys[n].Sign(text))
	}
	entry, err := receipt.NoteEntry(signed)
	if err != nil {
		h.t.Fatal(err)
	}
	return entry
}

// rekey is the first change: node n1 gets the key of that seed.
func (h *house) rekey(seed byte) *receipt.Change {
	c := &receipt.Change{Domain: h.id, Sequence: 1, After: h.id, Rekey: true, Roster: h.genesis.Roster}
	c.Roster.Nodes = append([]receipt.Node{}, h.genesis.Roster.Nodes...)
	c.Roster.Nodes[0].Key = nodeKey(h.t, seed).Public()
	return c
}

// verify has all nodes sign the rekey, and verifies it.
func (h *house) verify(c *receipt.Change) error {
	h.t.Helper()
	text, err := c.Text()
	if err != nil {
		return err
	}
	_, err = h.genesis.VerifyChange(h.byNodes(text, "n1", "n2", "n3"), h.id, 1, h.id, &h.genesis.Roster)
	return err
}

func wants(t *testing.T, err error, want keystead.Reason, where string) {
	t.Helper()
	var d *keystead.DenyError
	if !errors.As(err, &d) || d.Findings[0].Reason != want || !strings.Contains(d.Findings[0].Where, where) {
		t.Errorf("want %s at %q, got %v", want, where, err)
	}
}

func threeTPMs() []key.AKDigest {
	return []key.AKDigest{forger.New(1).AK(), forger.New(2).AK(), forger.New(3).AK()}
}

// TestRekeyNeedsTheTPM lets all nodes of a domain collude: what they bring in is
// still refused unless the TPM that members signed for certified just that key, for
// that node, in that place of the chain.
func TestRekeyNeedsTheTPM(t *testing.T) {
	h := newHouse(t, nil, threeTPMs()...)
	tpm, key9 := forger.New(1), nodeKey(t, 9).Public()
	good := receipt.KeyBinding(h.id, h.id, "n1", key9)
	earlier := receipt.KeyBinding(h.id, keystead.Sum([]byte("the entry before")), "n1", key9)
	other := good
	other.Purpose = evidence.PurposeVerify
	altered := tpm.Certify(good)
	altered.Signature = tpm.Sign([]byte("something else"))
	if err := h.verify(certified(h.rekey(9), "n1", tpm.Certify(good))); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		cert *tpm2.Certification
		want keystead.Reason
	}{
		{"no certificate", nil, keystead.ReasonEvidenceMissing},
		{"by another TPM", forger.New(9).Certify(good), keystead.ReasonKeyForeign},
		{"by another node's TPM", forger.New(2).Certify(good), keystead.ReasonKeyForeign},
		{"altered", altered, keystead.ReasonSignatureInvalid},
		{"for another purpose", tpm.Certify(other), keystead.ReasonNonceMismatch},
		{"of an earlier sequence", tpm.Certify(earlier), keystead.ReasonNonceMismatch},
		{"of another domain", tpm.Certify(receipt.KeyBinding(keystead.Digest{1}, h.id, "n1", key9)), keystead.ReasonNonceMismatch},
		{"of another node", tpm.Certify(receipt.KeyBinding(h.id, h.id, "n2", key9)), keystead.ReasonNonceMismatch},
		{"of another key", tpm.Certify(receipt.KeyBinding(h.id, h.id, "n1", nodeKey(t, 8).Public())), keystead.ReasonNonceMismatch},
		{"of the old key", tpm.Certify(receipt.KeyBinding(h.id, h.id, "n1", h.keys["n1"].Public())), keystead.ReasonNonceMismatch},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := h.rekey(9)
			if tc.cert != nil {
				certified(c, "n1", tc.cert)
			}
			wants(t, h.verify(c), tc.want, "node n1")
		})
	}
}

func certified(c *receipt.Change, node string, cert *tpm2.Certification) *receipt.Change {
	c.Certificates = append(c.Certificates, receipt.Certificate{Node: node, Certification: cert})
	return c
}

// TestUnrestrictedAK has members name a key that signs whatever it is given.
func TestUnrestrictedAK(t *testing.T) {
	loose := forger.Unrestricted(1)
	h := newHouse(t, nil, loose.AK(), forger.New(2).AK(), forger.New(3).AK())
	c := certified(h.rekey(9), "n1", loose.Certify(receipt.KeyBinding(h.id, h.id, "n1", nodeKey(t, 9).Public())))
	wants(t, h.verify(c), keystead.ReasonKeyUnsuitable, "node n1")
}

// TestRekeyHasNothingElse refuses certificates that nobody asked for, and changes of
// what members signed.
func TestRekeyHasNothingElse(t *testing.T) {
	h := newHouse(t, nil, threeTPMs()...)
	good := func() *receipt.Change {
		return certified(h.rekey(9), "n1", forger.New(1).Certify(receipt.KeyBinding(h.id, h.id, "n1", nodeKey(t, 9).Public())))
	}
	same := forger.New(2).Certify(receipt.KeyBinding(h.id, h.id, "n2", h.keys["n2"].Public()))
	wants(t, h.verify(certified(good(), "n2", same)), keystead.ReasonRosterBroken, "node n2") // its key stays
	wants(t, h.verify(certified(good(), "n7", same)), keystead.ReasonRosterBroken, "roster 1")
	var f *keystead.FormatError
	if err := h.verify(certified(good(), "n1", same)); !errors.As(err, &f) {
		t.Errorf("two certificates of one node: want a FormatError, got %v", err)
	}
	for name, ak := range map[string]key.AKDigest{"another TPM": forger.New(9).AK(), "none": {}} {
		c := certified(h.rekey(9), "n1", forger.New(9).Certify(receipt.KeyBinding(h.id, h.id, "n1", nodeKey(t, 9).Public())))
		c.Roster.Nodes[0].AK = ak
		t.Run(name, func(t *testing.T) { wants(t, h.verify(c), keystead.ReasonRosterBroken, "roster 1") })
	}
	text, err := good().Text()
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.genesis.VerifyChange(h.byNodes(text, "n1"), h.id, 1, h.id, &h.genesis.Roster)
	wants(t, err, keystead.ReasonMajorityMissing, "roster 1")
}

// TestMembersChangeMachines: what nodes may not, members may, without certificates.
func TestMembersChangeMachines(t *testing.T) {
	h := newHouse(t, nil, threeTPMs()...)
	c := h.rekey(9)
	c.Rekey = false
	c.Roster.Nodes[0].AK = forger.New(9).AK()
	verify := func() error {
		text, err := c.Text()
		if err != nil {
			return err
		}
		_, err = h.genesis.VerifyChange(h.bySigned(text), h.id, 1, h.id, &h.genesis.Roster)
		return err
	}
	if err := verify(); err != nil {
		t.Errorf("a new machine that members signed for: %v", err)
	}
	c.Roster.Nodes[0].AK = key.AKDigest{}
	wants(t, verify(), keystead.ReasonEvidenceMissing, "node n1")
	var f *keystead.FormatError
	c.Roster.Nodes[0].AK = forger.New(2).AK()
	if err := verify(); !errors.As(err, &f) || !strings.Contains(f.Problem, "one machine can not be two nodes") {
		t.Errorf("one machine as two nodes: want a FormatError, got %v", err)
	}
	c.Roster.Nodes[0].AK = forger.New(9).AK()
	certified(c, "n1", forger.New(9).Certify(receipt.KeyBinding(h.id, h.id, "n1", nodeKey(t, 9).Public())))
	if err := verify(); !errors.As(err, &f) {
		t.Errorf("a certificate in members' change: want a FormatError, got %v", err)
	}
}

// TestEvidenceNone founds domains of nodes without a TPM, with and without saying so.
func TestEvidenceNone(t *testing.T) {
	for _, settings := range [][]string{nil, {"evidence=required"}, {"evidence=of-some"}} {
		h := newHouse(t, settings, forger.New(1).AK(), key.AKDigest{}, forger.New(3).AK())
		_, err := receipt.VerifyGenesis(h.entry, h.id)
		wants(t, err, keystead.ReasonEvidenceMissing, "node n2")
		if !h.genesis.AsksEvidence() {
			t.Errorf("%v asks for no evidence", settings)
		}
	}
	h := newHouse(t, []string{"evidence=none"}, key.AKDigest{}, key.AKDigest{}, forger.New(3).AK())
	if _, err := receipt.VerifyGenesis(h.entry, h.id); err != nil || h.genesis.AsksEvidence() {
		t.Errorf("%v, asks for evidence: %t", err, h.genesis.AsksEvidence())
	}
	if err := h.verify(h.rekey(9)); err != nil {
		t.Errorf("a node without a TPM: %v", err)
	}
	cert := forger.New(1).Certify(receipt.KeyBinding(h.id, h.id, "n1", nodeKey(t, 9).Public()))
	wants(t, h.verify(certified(h.rekey(9), "n1", cert)), keystead.ReasonRosterBroken, "node n1")
	c := h.rekey(9)
	c.Roster.Nodes[0].Key, c.Roster.Nodes[2].Key = h.keys["n1"].Public(), nodeKey(t, 9).Public()
	wants(t, h.verify(c), keystead.ReasonEvidenceMissing, "node n3") // it has one, so it uses it
}

// TestColludingMajorityOffline shows a verifier a checkpoint by a majority of new keys
// that the TPMs never saw, brought in by all of the old ones.
func TestColludingMajorityOffline(t *testing.T) {
	h := newHouse(t, nil, threeTPMs()...)
	c := h.rekey(9)
	for i := range c.Roster.Nodes {
		c.Roster.Nodes[i].Key = nodeKey(t, byte(10+i)).Public()
	}
	show := func() error {
		t.Helper()
		text, err := c.Text()
		if err != nil {
			t.Fatal(err)
		}
		entry := h.byNodes(text, "n1", "n2", "n3")
		head := receipt.TreeHead{Domain: h.id, Size: 2, Roster: 1, Entry: keystead.Sum(entry)}
		signed := append(head.Text(), '\n')
		for i, n := range c.Roster.Nodes {
			signed = receipt.AppendSignature(signed, n, nodeKey(t, byte(10+i)).Sign(head.Text()))
		}
		_, err = receipt.NewVerifier(h.id).VerifyCheckpoint([][]byte{h.entry, entry}, signed)
		return err
	}
	wants(t, show(), keystead.ReasonEvidenceMissing, "node n1")
	for i, n := range c.Roster.Nodes {
		certified(c, n.Name, forger.New(byte(i+1)).Certify(receipt.KeyBinding(h.id, h.id, n.Name, n.Key)))
	}
	if err := show(); err != nil {
		t.Errorf("with the TPMs' certificates: %v", err)
	}
}

// TestCertifyLinesAreStrict wants certificates written in one way only.
func TestCertifyLinesAreStrict(t *testing.T) {
	h := newHouse(t, nil, threeTPMs()...)
	c := h.rekey(9)
	c.Roster.Nodes[1].Key = nodeKey(t, 10).Public()
	for i, n := range c.Roster.Nodes[:2] {
		certified(c, n.Name, forger.New(byte(i+1)).Certify(receipt.KeyBinding(h.id, h.id, n.Name, n.Key)))
	}
	text, err := c.Text()
	if err != nil {
		t.Fatal(err)
	}
	good := string(h.byNodes(text, "n1", "n2"))
	if _, err := receipt.ParseChange([]byte(good)); err != nil {
		t.Fatal(err)
	}
	first, second := good[strings.Index(good, "certify n1"):strings.Index(good, "certify n2")], good[strings.Index(good, "certify n2"):strings.Index(good, "\n\n")+1]
	raw := c.Certificates[0].Certification.Bytes()
	for name, spoil := range map[string][2]string{
		"out of order":        {first + second, second + first},
		"twice":               {second, first},
		"before the nodes":    {"node n1 ", first + "node n1 "},
		"in members' kind":    {"keystead-rekey/1", "keystead-roster/1"},
		"not base64":          {first, "certify n1 !\n"},
		"empty":               {first, "certify n1 \n"},
		"without a name":      {first, "certify  " + first[len("certify n1 "):]},
		"too long":            {first, "certify n1 " + base64.StdEncoding.EncodeToString(make([]byte, tpm2.MaxCertification+3)) + "\n"},
		"another version":     {first, "certify n1 " + base64.StdEncoding.EncodeToString(append([]byte{2}, raw[1:]...)) + "\n"},
		"cut":                 {first, "certify n1 " + base64.StdEncoding.EncodeToString(raw[:len(raw)-1]) + "\n"},
		"a byte more":         {first, "certify n1 " + base64.StdEncoding.EncodeToString(append(raw, 0)) + "\n"},
		"a line behind":       {second, second + "more\n"},
		"without a node's AK": {" " + h.genesis.Roster.Nodes[0].AK.String(), ""},
		"an AK in capitals":   {h.genesis.Roster.Nodes[0].AK.String()[3:], strings.ToUpper(h.genesis.Roster.Nodes[0].AK.String()[3:])},
	} {
		t.Run(name, func(t *testing.T) {
			spoilt := strings.Replace(good, spoil[0], spoil[1], 1)
			if spoilt == good {
				t.Fatal("nothing was spoilt")
			}
			_, err := receipt.ParseChange([]byte(spoilt))
			var f *keystead.FormatError
			if !errors.As(err, &f) {
				t.Errorf("want a FormatError, got %v", err)
			}
		})
	}
}
