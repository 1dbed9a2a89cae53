package eventlog

import (
	"bytes"
	"encoding/binary"
)

// demands reports whether an event of that type must have the digest of its data
// (PFP 1.06, 10.4.1). Real firmware keeps to that for these types; for
// EV_S_CRTM_VERSION and EV_EFI_VARIABLE_AUTHORITY, among others, some does not.
func demands(t Type) bool {
	switch t {
	case Separator, EFIAction, EFIVariableDriverConfig:
		return true
	}
	return false
}

// bound reports whether an event's data has its digest, so that the data is as
// proven as the digest is. The data may stand with a terminating NUL or a label
// that is not hashed.
func bound(l *Log, e *Event) bool {
	is := func(b []byte) bool { return bytes.Equal(l.sum(b), e.Digest) }
	switch e.Type {
	case EFIVariableBoot:
		if v := variableValue(e.Data); v != nil && is(v) {
			return true
		}
	case IPL:
		if text, ok := grubText(e.Data); ok {
			return is(text)
		}
	}
	return is(e.Data)
}

// variableValue returns the VariableData of a UEFI_VARIABLE_DATA structure:
// GUID, lengths of name in characters and of data in bytes, name, data.
func variableValue(b []byte) []byte {
	const head = 16 + 8 + 8
	if len(b) < head {
		return nil
	}
	name, data := binary.LittleEndian.Uint64(b[16:]), binary.LittleEndian.Uint64(b[24:])
	rest := b[head:]
	if name > uint64(len(rest))/2 || data != uint64(len(rest))-2*name {
		return nil
	}
	return rest[2*name:]
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
