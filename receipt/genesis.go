package receipt

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/keystead/keystead"
)

const maxSettings = 64

// TrustDisks is the setting under which a restarted node is believed to hold what
// its disk held, without a record in its TPM. It weakens the domain against
// whoever can roll a disk back, so it is shown wherever the domain's receipts are.
const TrustDisks = "trust-disks"

// Evidence is the setting by which a domain says whether its nodes must have a TPM
// that certifies their keys: with "none", and nothing else, they need not. What a node
// of such a domain signed proves nothing of the machine that it runs on, so the setting
// is shown wherever the domain's receipts are.
const Evidence = "evidence"

// EvidenceNone is the value of Evidence that asks for none.
const EvidenceNone = "none"

// Genesis is the content of a domain's first entry. The digest of that entry
// is the domain's identity.
type Genesis struct {
	Name     string   // for people; the digest is what counts
	Created  uint64   // Unix milliseconds: where the domain clock starts
	Settings []string // NAME=VALUE, sorted
	Roster   Roster
}

// Setting returns the value of a setting, or "".
func (g *Genesis) Setting(name string) string {
	for _, s := range g.Settings {
		if v, ok := strings.CutPrefix(s, name+"="); ok {
			return v
		}
	}
	return ""
}

// TrustsDisks reports whether the domain was founded with trust-disks=true.
func (g *Genesis) TrustsDisks() bool { return g.Setting(TrustDisks) == "true" }

// AsksEvidence reports whether every node must have a TPM that certifies its keys:
// always, unless the domain was founded with evidence=none.
func (g *Genesis) AsksEvidence() bool { return g.Setting(Evidence) != EvidenceNone }

// checkMachines refuses a roster with nodes whose TPM is not named, if the domain asks
// for evidence.
func (g *Genesis) checkMachines(r *Roster, where string) error {
	for _, n := range r.Nodes {
		if n.AK.None() && g.AsksEvidence() {
			return deny(keystead.ReasonEvidenceMissing, where+", node "+n.Name, "the attestation key of its TPM; a domain of nodes without one is founded with "+Evidence+"="+EvidenceNone, n.AK.String())
		}
	}
	return nil
}

// Text returns the text that the founding members sign as a C2SP signed note.
func (g *Genesis) Text() ([]byte, error) {
	slices.Sort(g.Settings)
	problem := g.Roster.normal()
	if !validName(g.Name) {
		problem = fmt.Sprintf("name %.80q: names have 1 to %d of a-z, 0-9, dot and dash", g.Name, maxName)
	}
	for i, s := range g.Settings {
		name, value, ok := strings.Cut(s, "=")
		switch {
		case !ok || !validName(name) || !validName(value):
			problem = fmt.Sprintf("setting %.80q is not NAME=VALUE of a-z, 0-9, dot and dash", s)
		case i > 0 && strings.HasPrefix(g.Settings[i-1], name+"="):
			problem = "setting " + name + " stands there twice"
		}
	}
	if len(g.Settings) > maxSettings {
		problem = fmt.Sprintf("%d settings, at most %d are accepted", len(g.Settings), maxSettings)
	}
	if problem != "" {
		return nil, &keystead.FormatError{Format: "genesis", Field: "content", Problem: problem}
	}
	b := fmt.Appendf(nil, "%s\nname %s\ncreated %d\n", kindGenesis, g.Name, g.Created)
	for _, s := range g.Settings {
		b = fmt.Appendf(b, "setting %s\n", s)
	}
	return g.Roster.appendText(b), nil
}

// ParseGenesis reads a genesis entry without checking its signatures.
func ParseGenesis(entry []byte) (Genesis, error) {
	text, _, err := splitNote(entry, KindGenesis)
	if err != nil {
		return Genesis{}, err
	}
	var g Genesis
	l := lines{format: "genesis", rest: text}
	if kind := l.line("kind"); kind != kindGenesis {
		l.fail("kind", fmt.Sprintf("%.40q is not %s", kind, kindGenesis))
	}
	g.Name = l.value("name")
	g.Created = l.number("created")
	for l.err == nil && bytes.HasPrefix(l.rest, []byte("setting ")) && len(g.Settings) <= maxSettings {
		g.Settings = append(g.Settings, l.value("setting"))
	}
	l.roster(&g.Roster)
	l.end()
	if l.err != nil {
		return Genesis{}, l.err
	}
	if again, err := g.Text(); err != nil {
		return Genesis{}, err
	} else if !bytes.Equal(again, text) {
		return Genesis{}, &keystead.FormatError{Format: "genesis", Field: "text", Problem: "is not in its one canonical spelling"}
	}
	return g, nil
}

// VerifyGenesis checks that entry founds the domain and that the threshold of its
// own members signed it. Every node has a TPM, unless the domain says that it asks for
// no evidence.
func VerifyGenesis(entry []byte, domain keystead.Digest) (Genesis, error) {
	if got := keystead.Sum(entry); got != domain {
		return Genesis{}, deny(keystead.ReasonDomainMismatch, "genesis entry", Origin(domain), Origin(got))
	}
	g, err := ParseGenesis(entry)
	if err != nil {
		return Genesis{}, err
	}
	if err := verifyMembers(entry, KindGenesis, &g.Roster, "genesis entry"); err != nil {
		return Genesis{}, err
	}
	return g, g.checkMachines(&g.Roster, "genesis entry")
}
