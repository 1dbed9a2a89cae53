package eventlog

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
)

func efiVariable(owner guid, name string, data []byte) []byte {
	b := le.AppendUint64(slices.Clone(owner[:]), uint64(len(name)))
	b = le.AppendUint64(b, uint64(len(data)))
	for _, c := range name {
		b = append(b, byte(c), 0)
	}
	return append(b, data...)
}

// list is an EFI_SIGNATURE_LIST of signatures of one size.
func list(kind guid, entries ...[]byte) []byte {
	size := len(guid{}) + len(entries[0])
	b := le.AppendUint32(slices.Clone(kind[:]), uint32(28+size*len(entries)))
	b = le.AppendUint32(le.AppendUint32(b, 0), uint32(size))
	for _, e := range entries {
		b = append(append(b, "owner of the key"...), e...)
	}
	return b
}

func hash(s string) []byte { d := keystead.Sum([]byte(s)); return d[:] }

func testCertificate(t *testing.T) []byte {
	t.Helper()
	secret, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, secret.Public(), secret)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// after is boot with events of PCR 7 behind its separator; before has them above it.
func after(more ...item) []item {
	items := slices.DeleteFunc(boot(), func(it item) bool { return it.typ == EFIVariableAuthority })
	return append(items, more...)
}

func before(more ...item) []item { return slices.Insert(after(), 2, more...) }

func config(owner guid, name string, data []byte) item {
	return item{pcr: 7, typ: EFIVariableDriverConfig, data: efiVariable(owner, name, data)}
}

func authorityEvent(owner guid, name string, data []byte) item {
	return item{pcr: 7, typ: EFIVariableAuthority, data: efiVariable(owner, name, data)}
}

var hashes = guid{0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28} // EFI_CERT_SHA256_GUID

func TestKeyLists(t *testing.T) {
	der := testCertificate(t)
	name := keystead.Sum(der).String()
	db, dbx := config(imageSecurity, "db", list(certX509, der)), config(imageSecurity, "dbx", append(list(hashes, hash("a"), hash("b")), list(certX509, der)...))
	valueOnly := dbx
	valueOnly.typ, valueOnly.hashed = EFIVariableBoot, list(hashes, hash("a"), hash("b"))
	unbound := dbx
	unbound.hashed = []byte("an older list")
	for what, tc := range map[string]struct {
		items   []item
		keys    []string
		revoked int64
	}{
		"both":                            {before(db, dbx), []string{name}, 3},
		"none":                            {before(), nil, 0},
		"empty dbx":                       {before(db, config(imageSecurity, "dbx", nil)), []string{name}, 0},
		"dbx twice":                       {before(db, dbx, dbx), []string{name}, 0},
		"db twice":                        {before(db, db, dbx), nil, 3},
		"a key and hashes in db":          {before(config(imageSecurity, "db", append(list(hashes, hash("a")), list(certX509, der)...)), dbx), []string{name}, 3},
		"of another owner":                {before(db, config(globalVariable, "dbx", list(hashes, hash("a")))), []string{name}, 0},
		"extended by the running system":  {append(before(db), dbx), []string{name}, 0},
		"another text than was measured":  {before(db, unbound), []string{name}, 0},
		"a name that no digest covers":    {before(db, valueOnly), []string{name}, 0},
		"a list longer than the variable": {before(db, config(imageSecurity, "dbx", list(hashes, hash("a"))[:40])), []string{name}, 0},
		"entries of no size":              {before(db, config(imageSecurity, "dbx", list(hashes, nil, nil))), []string{name}, 0},
		"a list within another's head":    {before(db, config(imageSecurity, "dbx", append(bytes.Clone(hashes[:]), make([]byte, 12)...))), []string{name}, 0},
	} {
		c := open(t, tc.items, both(tc.items)).Boot()
		if !slices.Equal(c.Keys, tc.keys) || c.Revoked != tc.revoked {
			t.Errorf("%s: got keys %q, %d revoked", what, c.Keys, c.Revoked)
		}
	}
}

func TestAuthorities(t *testing.T) {
	der := testCertificate(t)
	name := keystead.Sum(der).String()
	owned := append([]byte("owner of the key"), der...)
	hidden := authorityEvent(imageSecurity, "db", owned)
	hidden.hashed = []byte("another certificate")
	level := authorityEvent(shimLock, "SbatLevel", []byte("sbat,1,2024010900\nshim,4\n"))
	for what, tc := range map[string]struct {
		items []item
		want  []string
		sbat  int64
	}{
		"firmware's and shim's":           {after(authorityEvent(imageSecurity, "db", owned), level, authorityEvent(shimLock, "Shim", der)), []string{name, name}, 2024010900},
		"an image accepted by its hash":   {after(authorityEvent(imageSecurity, "db", append([]byte("owner of the key"), hash("image")...))), []string{"event:" + keystead.Sum(efiVariable(imageSecurity, "db", append([]byte("owner of the key"), hash("image")...))).String()}, 0},
		"another text than was measured":  {after(hidden), []string{"event:" + keystead.Sum([]byte("another certificate")).String()}, 0},
		"called something else":           {after(item{pcr: 7, typ: EFIAction, data: []byte("nothing to see")}), []string{"event:" + keystead.Sum([]byte("nothing to see")).String()}, 0},
		"a second level":                  {after(level, authorityEvent(shimLock, "SbatLevel", []byte("sbat,1,2099010100\n"))), nil, 0},
		"a level of another owner":        {after(authorityEvent(imageSecurity, "SbatLevel", []byte("sbat,1,2099010100\n"))), []string{"event:" + keystead.Sum(efiVariable(imageSecurity, "SbatLevel", []byte("sbat,1,2099010100\n"))).String()}, 0},
		"a level before the separator":    {before(config(shimLock, "SbatLevel", []byte("sbat,1,2099010100\n"))), nil, 0},
		"a level that is no date":         {after(authorityEvent(shimLock, "SbatLevel", []byte("sbat,1,99999999999\n"))), nil, 0},
		"a level whose date is negative":  {after(authorityEvent(shimLock, "SbatLevel", []byte("sbat,1,-202401090\n"))), nil, 0},
		"more than a machine may measure": {after(slices.Repeat([]item{authorityEvent(shimLock, "Shim", der)}, maxAuthorities+1)...), nil, 0},
	} {
		c := open(t, tc.items, both(tc.items)).Boot()
		if !slices.Equal(c.Authorities, tc.want) || c.SBAT != tc.sbat {
			t.Errorf("%s: got %q, sbat %d", what, c.Authorities, c.SBAT)
		}
	}
	items := after(authorityEvent(shimLock, "Shim", der))
	items = slices.DeleteFunc(items, func(it item) bool { return it.pcr == 7 && it.typ == Separator })
	if c := open(t, items, both(items)).Boot(); c.Authorities != nil || c.Keys != nil {
		t.Errorf("without a separator: got %+v", c)
	}
}

// TestRealAuthorities: a real machine whose firmware verified shim by Microsoft's UEFI
// CA of 2011, and whose shim verified GRUB and the kernel by its distribution's key.
func TestRealAuthorities(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(tpmToolsDir(t), "internal/test/eventlogs/rhel8-uefi.bin"))
	if err != nil {
		t.Fatal(err)
	}
	p, _ := registers(t, raw, evidence.SHA256)
	l, err := Open(raw, []evidence.PCRs{p})
	if err != nil {
		t.Fatal(err)
	}
	c := l.Boot()
	if len(c.Authorities) != 2 || c.Authorities[0] != "sha256:48e99b991f57fc52f76149599bff0a58c47154229b9f8d603ac40d3500248507" || strings.HasPrefix(c.Authorities[1], "event:") || c.Revoked != 186 {
		t.Errorf("got %+v", c)
	}
}

func FuzzSignatures(f *testing.F) {
	f.Add(list(hashes, hash("a"), hash("b")))
	f.Add(append(list(hashes, hash("a")), list(certX509, []byte("certificate"))...))
	f.Add(make([]byte, 28))
	f.Fuzz(func(t *testing.T, b []byte) {
		out, ok := signatures(b)
		size := 0
		for _, s := range out {
			size += len(s.data)
		}
		if !ok && out != nil || size > len(b) {
			t.Errorf("%d bytes of signatures in %d", size, len(b))
		}
	})
}
