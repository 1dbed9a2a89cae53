package eventlog

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/keystead/keystead/evidence"
)

// An item is one event to be written as firmware would write it.
type item struct {
	pcr    int
	typ    Type
	data   []byte // as it stands in the log
	hashed []byte // what was measured; data when nil
}

func text(pcr int, typ Type, s string) item { return item{pcr: pcr, typ: typ, data: []byte(s)} }

// image is a loaded EFI program: its digest is not that of the event's data.
func image(pcr int, content string) item {
	return item{pcr: pcr, typ: EFIApplication, data: []byte("\x18\x00device path"), hashed: []byte(content)}
}

func tagged(id uint32, name string, hashed string) item {
	b := binary.LittleEndian.AppendUint32(nil, id)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(name)+1))
	return item{pcr: 9, typ: EventTag, data: append(append(b, name...), 0), hashed: []byte(hashed)}
}

func loadOptions(commandLine string) item {
	return tagged(loadOptionsTag, "LOADED_IMAGE::LoadOptions", utf16z(commandLine))
}

func initrd(content string) item { return tagged(initrdTag, "Linux initrd", content) }

func utf16z(s string) string {
	var b []byte
	for _, c := range s + "\x00" {
		b = append(b, byte(c), 0)
	}
	return string(b)
}

func separator(pcr int) item { return item{pcr: pcr, typ: Separator, data: []byte{0, 0, 0, 0}} }

func secureBoot(value ...byte) item {
	return item{pcr: 7, typ: EFIVariableDriverConfig, data: secureBootVariable(value...)}
}

func (it item) digest(b evidence.Bank) []byte {
	h := b.Hash().New()
	if it.hashed == nil {
		it.hashed = it.data
	}
	h.Write(it.hashed)
	return h.Sum(nil)
}

var le = binary.LittleEndian

func header(algs ...evidence.Bank) []byte {
	spec := append([]byte(specID), 0, 0, 0, 0, 0, 2, 0, 2)
	spec = le.AppendUint32(spec, uint32(len(algs)))
	for _, a := range algs {
		spec = le.AppendUint16(le.AppendUint16(spec, uint16(a)), uint16(a.Size()))
	}
	spec = append(spec, 0)
	b := le.AppendUint32(nil, 0)
	b = le.AppendUint32(b, uint32(NoAction))
	b = append(b, make([]byte, 20)...)
	return append(le.AppendUint32(b, uint32(len(spec))), spec...)
}

func (it item) bytes(algs ...evidence.Bank) []byte {
	b := le.AppendUint32(nil, uint32(it.pcr))
	b = le.AppendUint32(b, uint32(it.typ))
	b = le.AppendUint32(b, uint32(len(algs)))
	for _, a := range algs {
		d := it.digest(a)
		if it.typ == NoAction {
			clear(d)
		}
		b = append(le.AppendUint16(b, uint16(a)), d...)
	}
	return append(le.AppendUint32(b, uint32(len(it.data))), it.data...)
}

var algs = []evidence.Bank{evidence.SHA1, evidence.SHA256, evidence.SHA384}

func write(items []item) []byte {
	b := header(algs...)
	for _, it := range items {
		b = append(b, it.bytes(algs...)...)
	}
	return b
}

// quote extends the registers 0 to 15 of the banks as a TPM does.
func quote(items []item, banks ...evidence.Bank) []evidence.PCRs {
	var out []evidence.PCRs
	for _, b := range banks {
		p := evidence.PCRs{Bank: b}
		for i := range 16 {
			p.Value[i] = make([]byte, b.Size())
		}
		for _, it := range items {
			if it.typ == NoAction && bytes.HasPrefix(it.data, []byte(localityEvent)) {
				p.Value[0][b.Size()-1] = it.data[16]
			}
			if it.typ != NoAction {
				p.Extend(it.pcr, it.digest(b))
			}
		}
		out = append(out, p)
	}
	return out
}

func both(items []item) []evidence.PCRs { return quote(items, evidence.SHA256, evidence.SHA384) }

// boot is a whole boot of a kernel with its EFI stub.
func boot() []item {
	items := []item{
		text(0, CRTMVersion, utf16z("Firmware 1.2")),
		{pcr: 0, typ: EFIFirmwareBlob, data: []byte("base and length"), hashed: []byte("firmware volume")},
		secureBoot(1),
		{pcr: 7, typ: EFIVariableDriverConfig, data: []byte("PK")},
		{pcr: 1, typ: EFIVariableBoot, data: []byte("Boot0000")},
		{pcr: 2, typ: EFIBootDriver, data: []byte("\x18\x00option ROM"), hashed: []byte("driver")},
		text(4, EFIAction, "Calling EFI Application from Boot Option"),
	}
	for pcr := range 8 {
		items = append(items, separator(pcr))
	}
	return append(items,
		item{pcr: 7, typ: EFIVariableAuthority, data: []byte("db")},
		image(4, "kernel"),
		loadOptions("root=/dev/vda lockdown=confidentiality"),
		initrd("initrd"),
		text(5, EFIAction, "Exit Boot Services Invocation"),
		text(5, EFIAction, exitBootServices),
	)
}

func where(items []item, f func(item) bool) int { return slices.IndexFunc(items, f) }
