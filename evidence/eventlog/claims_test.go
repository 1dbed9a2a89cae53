package eventlog

import (
	"errors"
	"slices"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
)

// TestSecureBootForged: root on the running system extends PCR 7 by what a secure
// boot would have measured, and relabels the log so that it reads like one.
func TestSecureBootForged(t *testing.T) {
	forged := boot()
	forged[2] = secureBoot(0)
	forged[2].typ = EFIVariableAuthority // the true event is hidden behind a type that demands nothing
	for i := range forged {
		if forged[i].pcr == 7 && forged[i].typ == Separator {
			forged[i].typ = IPL // so is the true separator
		}
	}
	forged = append(forged, secureBoot(1), separator(7))
	if open(t, forged, both(forged)).Boot().SecureBoot {
		t.Error("a variable measured after the first separator counts")
	}
	for name, f := range map[string]func(i []item) []item{
		"measured as off":            func(i []item) []item { i[2] = secureBoot(0); return i },
		"absent":                     func(i []item) []item { i[2] = secureBoot(); return i },
		"not measured":               func(i []item) []item { return slices.Delete(i, 2, 3) },
		"on, then off":               func(i []item) []item { return slices.Insert(i, 3, secureBoot(0)) },
		"on twice":                   func(i []item) []item { return slices.Insert(i, 3, secureBoot(1)) },
		"turned off after separator": func(i []item) []item { return append(i, secureBoot(0)) },
		"value 2":                    func(i []item) []item { i[2] = secureBoot(2); return i },
		"two bytes":                  func(i []item) []item { i[2] = secureBoot(1, 0); return i },
		"no separator": func(i []item) []item {
			return slices.DeleteFunc(i, func(it item) bool { return it.pcr == 7 && it.typ == Separator })
		},
	} {
		items := f(boot())
		if open(t, items, both(items)).Boot().SecureBoot {
			t.Errorf("%s: secure boot is claimed", name)
		}
	}
}

// TestImageHidden: an image cannot be called something else to keep it from the claims.
func TestImageHidden(t *testing.T) {
	for _, typ := range []Type{IPL, EventTag, PostCode, Action, EFIVariableBoot, EFIVariableAuthority, CompactHash} {
		for name, it := range map[string]item{
			"opaque":              {data: []byte("nothing to see"), hashed: []byte("MZ evil")},
			"its bytes as data":   {data: []byte("MZ\x00\x01 evil")},
			"labelled as a text":  {data: []byte("grub_cmd: ls"), hashed: []byte("MZ evil")},
			"its bytes and label": {data: []byte("grub_cmd: MZ\x00\x01 evil"), hashed: []byte("MZ\x00\x01 evil")},
		} {
			it.pcr, it.typ = 4, typ
			items := append(boot(), it)
			if c := open(t, items, both(items)).Boot(); len(c.Loaded) != 3 {
				t.Errorf("%v, %s: hidden: %v", typ, name, c.Loaded)
			}
		}
	}
}

func TestFirmwareVersion(t *testing.T) {
	unbound := text(0, CRTMVersion, utf16z("Firmware 9"))
	unbound.hashed = []byte("something else")
	for name, tc := range map[string]struct {
		f    func(i []item) []item
		want string
	}{
		"two versions":        {func(i []item) []item { return slices.Insert(i, 1, text(0, CRTMVersion, utf16z("Firmware 9"))) }, ""},
		"not its digest":      {func(i []item) []item { i[0] = unbound; return i }, ""},
		"after the separator": {func(i []item) []item { return append(i[1:], text(0, CRTMVersion, utf16z("Firmware 9"))) }, ""},
		"empty, as OVMF's":    {func(i []item) []item { i[0] = text(0, CRTMVersion, utf16z("")); return i }, ""},
		"no terminator":       {func(i []item) []item { i[0] = text(0, CRTMVersion, "1\x002\x00"); return i }, "31003200"},
		"not ASCII":           {func(i []item) []item { i[0] = text(0, CRTMVersion, "\x2e\x20\x00\x00"); return i }, "2e200000"},
		"two, one empty":      {func(i []item) []item { return slices.Insert(i, 1, text(0, CRTMVersion, utf16z(""))) }, ""},
		"not text":            {func(i []item) []item { i[0] = text(0, CRTMVersion, "\x01\x02\x03"); return i }, "010203"},
		"control characters":  {func(i []item) []item { i[0] = text(0, CRTMVersion, utf16z("\x1b[2J")); return i }, "1b005b0032004a000000"},
	} {
		items := tc.f(boot())
		if got := open(t, items, both(items)).Boot().Firmware; got != tc.want {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

func TestKernel(t *testing.T) {
	items := boot()
	k, err := open(t, items, both(items)).Kernel()
	if err != nil {
		t.Fatal(err)
	}
	terminated, _ := LoadOptions(evidence.SHA256, "root=/dev/vda lockdown=confidentiality")
	if k.Image != keystead.Sum([]byte("kernel")).Measured() || k.Initrd != keystead.Sum([]byte("initrd")).Measured() || k.CommandLine != terminated || k.Before != nil || k.Text != nil {
		t.Errorf("got %+v", k)
	}
	long, err := open(t, items, quote(items, evidence.SHA384)).Kernel()
	terminated, _ = LoadOptions(evidence.SHA384, "root=/dev/vda lockdown=confidentiality")
	if err != nil || long.Image != keystead.Sum384([]byte("kernel")) || long.Initrd != keystead.Sum384([]byte("initrd")) || long.CommandLine != terminated || !long.Given("root=/dev/vda lockdown=confidentiality") || long.Given("root=/dev/vda") {
		t.Errorf("of bank sha384: %+v, %v", long, err)
	}
	for _, pcr := range []int{2, 4, 9} { // 2: a driver there could have changed the kernel
		covered := both(items)
		covered[0].Value[pcr] = nil
		if _, err := open(t, items, covered).Kernel(); !errors.Is(err, keystead.ReasonEvidenceMissing) {
			t.Errorf("PCR %d is not quoted: got %v", pcr, err)
		}
	}
}

// TestKernelBehindGRUB: the boot loader's own measurements come before.
func TestKernelBehindGRUB(t *testing.T) {
	items := boot()
	stub := where(items, func(it item) bool { return it.typ == EventTag })
	cmd := item{pcr: 8, typ: IPL, data: []byte("grub_cmd: linux /vmlinuz\x00"), hashed: []byte("linux /vmlinuz")}
	line := item{pcr: 8, typ: IPL, data: []byte("kernel_cmdline: /vmlinuz quiet"), hashed: []byte("/vmlinuz quiet")}
	lie := item{pcr: 8, typ: IPL, data: []byte("kernel_cmdline: /vmlinuz"), hashed: []byte("/vmlinuz init=/bin/sh")}
	file := item{pcr: 9, typ: IPL, data: []byte("/boot/grub/grub.cfg\x00"), hashed: []byte("configuration")}
	items = slices.Insert(items, stub, cmd, line, lie, file)
	k, err := open(t, items, both(items)).Kernel()
	if err != nil || !slices.Equal(k.Before, []keystead.Measured{keystead.Sum([]byte("configuration")).Measured()}) {
		t.Errorf("got %+v, %v", k, err)
	}
	if !slices.Equal(k.Text, []string{"linux /vmlinuz", "/vmlinuz quiet"}) {
		t.Errorf("got %q", k.Text)
	}
}

// TestKernelRelabelled: tags are not covered by a register, so moving them must not help.
func TestKernelRelabelled(t *testing.T) {
	const good = "good command line"
	truth := boot()
	stub := where(truth, func(it item) bool { return it.typ == EventTag })
	terminated, _ := LoadOptions(evidence.SHA256, good)
	for name, f := range map[string]func(i []item) []item{
		// The kernel was given an evil command line and, as its initrd, the text of the good one.
		"initrd reads like a command line": func(i []item) []item {
			i[stub] = item{pcr: 9, typ: IPL, data: []byte("/grub.cfg"), hashed: []byte("evil")}
			i[stub+1] = loadOptions(good)
			return i
		},
		// The good one is extended later, and what follows is called something else.
		"good one last": func(i []item) []item {
			i[stub] = tagged(1, "other", "evil")
			return slices.Insert(i, stub+2, loadOptions(good))
		},
		"tags exchanged": func(i []item) []item {
			i[stub], i[stub+1] = initrd(utf16z(good)), loadOptions("x")
			return i
		},
		"initrd after something else": func(i []item) []item {
			i[stub].typ = IPL
			return i
		},
		"nothing measured": func(i []item) []item { return slices.Delete(i, stub, stub+2) },
		"not tagged": func(i []item) []item {
			i[stub].typ, i[stub+1].typ = IPL, IPL
			return i
		},
	} {
		items := f(slices.Clone(truth))
		k, err := open(t, items, both(items)).Kernel()
		if !errors.Is(err, keystead.ReasonEvidenceMissing) || k.CommandLine == terminated {
			t.Errorf("%s: got %+v, %v", name, k, err)
		}
	}
	alone := slices.Delete(slices.Clone(truth), stub+1, stub+2)
	k, err := open(t, alone, both(alone)).Kernel()
	if err != nil || !k.Initrd.IsZero() {
		t.Errorf("a command line alone: got %+v, %v", k, err)
	}
	none := slices.DeleteFunc(slices.Clone(truth), func(it item) bool { return it.pcr == 4 && it.hashed != nil })
	if _, err := open(t, none, both(none)).Kernel(); !errors.Is(err, keystead.ReasonEvidenceMissing) {
		t.Errorf("no image: got %v", err)
	}
}
