package daemon

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

// SettingType is the type of proposals that change a setting of the domain. The
// subject is the setting's name, the content a note that the members' threshold
// signed.
const SettingType = "setting"

// settings are what can be set, each with its bounds.
var settings = map[string]struct{ least, most uint64 }{
	"lease-seconds": {5, 86400}, // how long a lease lasts
}

// SettingText is the text that members sign to set a setting. Base is the version
// of the setting that they saw, so that a signature serves once.
func SettingText(domain keystead.Digest, name string, base, value uint64) []byte {
	return fmt.Appendf(nil, "%s\ndomain %s\nname %s\nbase %d\nvalue %d\n", key.KindSetting, receipt.Origin(domain), name, base, value)
}

// SettingJudge endorses a setting that is within its bounds and that as many
// members signed as the roster demands.
func SettingJudge(_ ledger.View, roster *receipt.Roster, domain keystead.Digest, p *ledger.Proposal, out *ledger.Verdict) error {
	bounds, ok := settings[p.Subject]
	if !ok {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonRuleFailed, Where: "setting", Want: "the name of a setting", Got: p.Subject})
	}
	text, by, err := key.Open(p.Content, key.KindSetting, roster.Members...)
	if err != nil {
		return err
	}
	if len(by) < roster.Threshold {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonThresholdMissing, Where: "setting", Want: fmt.Sprintf("signatures of %d members", roster.Threshold), Got: strconv.Itoa(len(by))})
	}
	signed, err := ParseSetting(text)
	if err != nil {
		return err
	}
	value := signed.Value
	if value < bounds.least || value > bounds.most {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonRuleFailed, Where: "setting " + p.Subject, Want: fmt.Sprintf("%d to %d", bounds.least, bounds.most), Got: strconv.FormatUint(value, 10)})
	}
	if want := SettingText(domain, p.Subject, p.Base, value); string(text) != string(want) {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonRuleFailed, Where: "setting " + p.Subject, Want: fmt.Sprintf("%.300q", want), Got: fmt.Sprintf("%.300q", text)})
	}
	out.Writes = []ledger.Write{{Key: SettingType + "/" + p.Subject, Value: strconv.AppendUint(nil, value, 10)}}
	return nil
}

// A Setting is what a text that sets a setting says.
type Setting struct {
	Origin string // of the domain, as receipt.Origin spells it
	Name   string
	Base   uint64 // version of the setting that the text follows
	Value  uint64
}

// ParseSetting reads the text that [SettingText] writes.
func ParseSetting(text []byte) (s Setting, err error) {
	lines := strings.Split(string(text), "\n")
	if len(lines) != 6 || lines[0] != string(key.KindSetting) || lines[5] != "" {
		return s, &keystead.FormatError{Format: "setting", Field: "kind", Problem: "wants " + string(key.KindSetting) + " and four lines: domain, name, base, value"}
	}
	for i, field := range []struct {
		word   string
		text   *string
		number *uint64
	}{{word: "domain", text: &s.Origin}, {word: "name", text: &s.Name}, {word: "base", number: &s.Base}, {word: "value", number: &s.Value}} {
		value, ok := strings.CutPrefix(lines[i+1], field.word+" ")
		if ok && field.text != nil {
			*field.text = value
		} else if ok {
			*field.number, err = strconv.ParseUint(value, 10, 64)
			ok = err == nil && strconv.FormatUint(*field.number, 10) == value
		}
		if !ok {
			return Setting{}, &keystead.FormatError{Format: "setting", Field: field.word, Problem: fmt.Sprintf("line %d is %.80q", i+2, lines[i+1])}
		}
	}
	return s, nil
}

// SettingProposal returns the proposal, to be handed in, of a note that members
// signed over a [SettingText]. Whether enough did is for the nodes to judge.
func SettingProposal(note []byte) (ledger.Proposal, error) {
	text, _, err := key.Peek(note)
	if err != nil {
		return ledger.Proposal{}, err
	}
	s, err := ParseSetting(text)
	return ledger.Proposal{ID: [16]byte(client.NewRequestID()), Type: SettingType, Subject: s.Name, Base: s.Base, Content: note}, err
}
