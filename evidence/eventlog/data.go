package eventlog

import (
	"bytes"

	"github.com/keystead/keystead/internal/chain"
)

// maxState bounds what demands calls a state: SecureBoot and the like fit, the lists
// of keys in db and dbx do not.
const maxState = 256 // bytes

// demands reports whether an event must have the digest of its data (PFP 1.06,
// 10.4.1). Real firmware keeps to that for these types; for EV_S_CRTM_VERSION and
// EV_EFI_VARIABLE_AUTHORITY, among others, some does not. Lists of keys are compared
// when somebody asks ([Log.Bound]): no claim reads them, and they are most of a log.
func demands(e *Event) bool {
	switch e.Type {
	case Separator, EFIAction:
		return true
	case EFIVariableDriverConfig:
		return len(e.Data) <= maxState
	}
	return false
}

// Bound reports whether an event's data has its digest, so that the data is as
// proven as the digest is. The data may stand with a label or a NUL that is not
// hashed, or be a variable of which only the value is.
func (l *Log) Bound(e *Event) bool {
	_, ok := l.hashed(e)
	return ok
}

// hashed returns the bytes of an event's data that its digest is of; false if it is of
// none. Since no register covers the type, anything may stand in the place of a variable's
// value or behind a label.
func (l *Log) hashed(e *Event) ([]byte, bool) {
	switch e.Type {
	case EFIVariableBoot:
		if v, ok := parseVariable(e.Data); ok && l.has(e, v.data) {
			return v.data, true
		}
	case IPL:
		if text, ok := grubText(e.Data); ok {
			return text, l.has(e, text)
		}
	}
	return e.Data, l.has(e, e.Data)
}

// has reports whether an event's digest is that of data.
func (l *Log) has(e *Event, data []byte) bool {
	var v chain.Value
	chain.Sum(l.bank, &v, data)
	return v.Is(e.Digest)
}

// GRUB measures what it is told to do into PCR 8; the label before the text is
// not hashed, nor is a NUL after it.
var grubLabels = [][]byte{[]byte("grub_cmd: "), []byte("kernel_cmdline: "), []byte("module_cmdline: ")}

// grubText returns the measured text of an EV_IPL event of PCR 8.
func grubText(b []byte) ([]byte, bool) {
	for _, label := range grubLabels {
		if text, ok := bytes.CutPrefix(b, label); ok {
			return bytes.TrimSuffix(text, []byte{0}), true
		}
	}
	return nil, false
}
