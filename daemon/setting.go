package daemon

import (
	"context"
	"fmt"
	"strconv"

	"github.com/keystead/keystead"
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
func SettingJudge(_ context.Context, h *Hearing, out *ledger.Verdict) error {
	p, roster, domain := h.Proposal, h.Roster, h.Domain
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
	value, err := settingValue(text)
	if err != nil {
		return err
	}
	if value < bounds.least || value > bounds.most {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonRuleFailed, Where: "setting " + p.Subject, Want: fmt.Sprintf("%d to %d", bounds.least, bounds.most), Got: strconv.FormatUint(value, 10)})
	}
	if want := SettingText(domain, p.Subject, p.Base, value); string(text) != string(want) {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonRuleFailed, Where: "setting " + p.Subject, Want: fmt.Sprintf("%.300q", want), Got: fmt.Sprintf("%.300q", text)})
	}
	out.Writes = []ledger.Write{{Key: SettingType + "/" + p.Subject, Value: strconv.AppendUint(nil, value, 10)}}
	return nil
}

// settingValue reads the value from the last line of the text.
func settingValue(text []byte) (uint64, error) {
	bad := &keystead.FormatError{Format: "setting", Offset: int64(len(text)), Field: "value", Problem: "wants a last line: value NUMBER"}
	n := len(text) - 1
	for n > 0 && text[n-1] != '\n' {
		n--
	}
	if n < 0 || len(text) == 0 {
		return 0, bad
	}
	var value uint64
	if _, err := fmt.Sscanf(string(text[n:]), "value %d\n", &value); err != nil {
		return 0, bad
	}
	return value, nil
}
