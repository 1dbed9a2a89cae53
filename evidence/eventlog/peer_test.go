package eventlog

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"go/ast"
	goparser "go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-eventlog/extract"
	"github.com/google/go-eventlog/register"
	"github.com/google/go-eventlog/tcg"
	"github.com/google/go-tpm-tools/proto/attest"
	"google.golang.org/protobuf/proto"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
)

const (
	eventlogModule = "github.com/google/go-eventlog"
	tpmTools       = "github.com/google/go-tpm-tools"
)

// module returns a module's directory in the module cache.
var module = func(path string) func(t testing.TB) string {
	dir := sync.OnceValues(func() ([]byte, error) { return exec.Command("go", "list", "-m", "-f", "{{.Dir}}", path).Output() })
	return func(t testing.TB) string {
		t.Helper()
		d, err := dir()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(d))
	}
}

var eventlogDir, tpmToolsDir = module(eventlogModule), module(tpmTools)

// realLogs are the event logs of real machines in two modules' test data.
func realLogs(t testing.TB) map[string][]byte {
	t.Helper()
	logs := map[string][]byte{}
	for _, pattern := range []string{filepath.Join(eventlogDir(t), "testdata/eventlogs/tpm/*"), filepath.Join(tpmToolsDir(t), "internal/test/eventlogs/*.bin")} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) < 10 {
			t.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for _, f := range files {
			raw, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			logs[filepath.Base(f)] = raw
		}
	}
	return logs
}

// registers replays what the peer parsed, without this package's parser or replay.
func registers(t testing.TB, raw []byte, bank evidence.Bank) (evidence.PCRs, []tcg.Event) {
	t.Helper()
	log, err := tcg.ParseEventLog(raw, tcg.ParseOpts{})
	if err != nil {
		t.Fatal(err)
	}
	p := evidence.PCRs{Bank: bank}
	var extended []tcg.Event
	for _, e := range log.Events(register.HashAlg(bank)) {
		pcr := int(e.Index)
		switch locality := len(e.Data) == 17 && bytes.HasPrefix(e.Data, []byte(localityEvent)); {
		case e.Type == tcg.NoAction && locality:
			p.Value[0] = make([]byte, bank.Size())
			p.Value[0][bank.Size()-1] = e.Data[16]
		case e.Type == tcg.NoAction:
		default:
			if e.Type == tcg.EFIHCRTMEvent {
				p.Value[0] = make([]byte, bank.Size())
				p.Value[0][bank.Size()-1] = 4
			}
			p.Extend(pcr, e.Digest)
			extended = append(extended, e)
		}
	}
	return p, extended
}

func mrs(p evidence.PCRs) (out []register.MR) {
	for i, v := range p.Value {
		if v != nil && judged[i] {
			out = append(out, register.PCR{Index: i, Digest: v, DigestAlg: p.Bank.Hash()})
		}
	}
	return out
}

// TestRealLogs: the same events and the same verdict as the peer on every real log,
// right registers and wrong ones; secure boot and loaded images as it extracts them.
func TestRealLogs(t *testing.T) {
	opened, sha1Only := 0, 0
	for name, raw := range realLogs(t) {
		for _, bank := range []evidence.Bank{evidence.SHA256, evidence.SHA384} {
			if log, err := tcg.ParseEventLog(raw, tcg.ParseOpts{}); err != nil || !slices.Contains(log.Algs, register.HashAlg(bank)) {
				covered := evidence.PCRs{Bank: bank}
				covered.Value[0] = make([]byte, bank.Size())
				refused(t, name, raw, []evidence.PCRs{covered}, keystead.ReasonEvidenceMissing, bank.String())
				sha1Only++
				continue
			}
			p, want := registers(t, raw, bank)
			want = slices.DeleteFunc(want, func(e tcg.Event) bool { return !judged[e.Index] })
			peer, peerErr := tcg.ParseAndReplay(raw, mrs(p), tcg.ParseOpts{})
			l, err := Open(raw, []evidence.PCRs{p})
			if err != nil || peerErr != nil || len(peer) != len(want) {
				t.Errorf("%s, %v: got %v, the peer %v", name, bank, err, peerErr)
				continue
			}
			opened++
			same(t, name, l, want)
			if bank == evidence.SHA256 {
				claims(t, name, l, peer)
			}
			for pcr := range evidence.NumPCRs {
				if p.Value[pcr] == nil || !judged[pcr] {
					continue
				}
				wrong := p
				wrong.Value[pcr] = bytes.Clone(p.Value[pcr])
				wrong.Value[pcr][5] ^= 4
				_, peerErr := tcg.ParseAndReplay(raw, mrs(wrong), tcg.ParseOpts{})
				if _, err := Open(raw, []evidence.PCRs{wrong}); peerErr == nil || !errors.Is(err, keystead.ReasonPCRMismatch) && !errors.Is(err, keystead.ReasonLogTruncated) {
					t.Errorf("%s, PCR %d wrong: got %v, the peer %v", name, pcr, err, peerErr)
				}
			}
		}
	}
	if opened < 30 || sha1Only == 0 {
		t.Errorf("%d logs opened, %d without the bank", opened, sha1Only)
	}
}

func same(t *testing.T, name string, l *Log, want []tcg.Event) {
	t.Helper()
	if len(l.Events()) != len(want) {
		t.Errorf("%s: got %d events, want %d", name, len(l.Events()), len(want))
		return
	}
	for i, e := range l.Events() {
		w := want[i]
		if e.PCR != int(w.Index) || uint32(e.Type) != uint32(w.Type) || !bytes.Equal(e.Data, w.Data) || !bytes.Equal(e.Digest, w.Digest) {
			t.Errorf("%s: event %d: got %+v, want %+v", name, i, e, w)
		}
	}
}

func claims(t *testing.T, name string, l *Log, peer []tcg.Event) {
	t.Helper()
	c := l.Boot()
	if sb, err := extract.SecureBootState(peer, extract.TPMRegisterConfig, extract.Opts{}); err == nil && sb.GetEnabled() != c.SecureBoot {
		t.Errorf("%s: secure boot is %v, the peer says %v", name, c.SecureBoot, sb.GetEnabled())
	}
	if sb, err := extract.SecureBootState(peer, extract.TPMRegisterConfig, extract.Opts{}); err == nil {
		if len(c.Keys) != len(sb.GetDb().GetCerts()) || int(c.Revoked) != len(sb.GetDbx().GetCerts())+len(sb.GetDbx().GetHashes()) {
			t.Errorf("%s: %d keys and %d revoked, the peer has %d and %d", name, len(c.Keys), c.Revoked, len(sb.GetDb().GetCerts()), len(sb.GetDbx().GetCerts())+len(sb.GetDbx().GetHashes()))
		}
		// The peer takes an old shim's word for certificates that the digests are not of; here they are events.
		if len(c.Authorities) != len(sb.GetAuthority().GetCerts()) {
			t.Errorf("%s: authorities %q, the peer has %d", name, c.Authorities, len(sb.GetAuthority().GetCerts()))
		}
	}
	if c.Events != int64(len(l.Events())) {
		t.Errorf("%s: got %+v", name, c)
	}
	for _, e := range peer {
		switch e.Type {
		case tcg.EFIBootServicesApplication, tcg.EFIBootServicesDriver, tcg.EFIRuntimeServicesDriver:
			if (e.Index == 2 || e.Index == 4) && !slices.Contains(c.Loaded, "sha256:"+hex.EncodeToString(e.Digest)) {
				t.Errorf("%s: image %x is not among the loaded", name, e.Digest)
			}
		}
	}
}

// recordedRegisters reads from the source of the peer's test the register values
// that were recorded with its logs on the machines themselves.
func recordedRegisters(t *testing.T) map[string]evidence.PCRs {
	t.Helper()
	src, err := os.ReadFile(filepath.Join(eventlogDir(t), "testdata/eventlog_data.go"))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{} // variable name to file name
	for _, m := range regexp.MustCompile(`//go:embed eventlogs/tpm/(\S+)\s+(\w+) \[\]byte`).FindAllStringSubmatch(string(src), -1) {
		files[m[2]] = m[1]
	}
	tree, err := goparser.ParseFile(token.NewFileSet(), filepath.Join(eventlogDir(t), "tpmeventlog/replay_test.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]evidence.PCRs{}
	ast.Inspect(tree, func(n ast.Node) bool {
		lit, ok := n.(*ast.CompositeLit)
		if id, isID := lit2ident(lit, ok); !isID || id != "eventLog" {
			return true
		}
		file := ""
		ast.Inspect(lit, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr:
				if f := files[n.Sel.Name]; f != "" {
					file = f
				}
			case *ast.CallExpr:
				if len(n.Args) == 2 && fmt.Sprint(n.Args[0].(*ast.SelectorExpr).Sel) == "HashAlgo_SHA256" {
					out[file] = values(n.Args[1].(*ast.CompositeLit))
				}
				return false
			}
			return true
		})
		return false
	})
	return out
}

func lit2ident(lit *ast.CompositeLit, ok bool) (string, bool) {
	if !ok {
		return "", false
	}
	id, ok := lit.Type.(*ast.Ident)
	if !ok {
		return "", false
	}
	return id.Name, true
}

// values reads map[uint32][]byte{0: decodeHex("…"), …}.
func values(lit *ast.CompositeLit) evidence.PCRs {
	p := evidence.PCRs{Bank: evidence.SHA256}
	for _, e := range lit.Elts {
		kv := e.(*ast.KeyValueExpr)
		i, _ := strconv.Atoi(kv.Key.(*ast.BasicLit).Value)
		s, _ := strconv.Unquote(kv.Value.(*ast.CallExpr).Args[0].(*ast.BasicLit).Value)
		p.Value[i], _ = hex.DecodeString(s)
	}
	return p
}

// TestRecordedRegisters: real logs against the registers recorded with them.
func TestRecordedRegisters(t *testing.T) {
	logs := realLogs(t)
	recorded := recordedRegisters(t)
	if len(recorded) < 8 {
		t.Fatalf("got registers of %v", slices.Collect(maps.Keys(recorded)))
	}
	for name, p := range recorded {
		if _, err := Open(logs[name], []evidence.PCRs{p}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		n := 0
		for i := range 8 {
			if p.Value[i] != nil {
				n++
			}
		}
		if n == 0 {
			t.Errorf("%s: no registers", name)
		}
	}
}

// TestRealQuote: the log of a real TPM's quote against the registers of that quote.
func TestRealQuote(t *testing.T) {
	for _, name := range []string{"gce-cos-85-no-nonce.pb", "gce-cos-85-nonce9009.pb"} {
		raw, covered := realQuote(t, name)
		l, err := Open(raw, covered)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if c := l.Boot(); !c.SecureBoot || !c.SeparatorsAll || c.Firmware != "GCE Virtual Firmware v1" || c.Events != 44 {
			t.Errorf("%s: got %+v", name, c)
		}
	}
}

// realQuote returns a recorded event log and the SHA-256 registers quoted with it.
func realQuote(t testing.TB, name string) ([]byte, []evidence.PCRs) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(tpmToolsDir(t), "internal/test/attestations", name))
	if err != nil {
		t.Fatal(err)
	}
	var a attest.Attestation
	if err := proto.Unmarshal(b, &a); err != nil {
		t.Fatal(err)
	}
	for _, q := range a.GetQuotes() {
		if evidence.Bank(q.GetPcrs().GetHash()) == evidence.SHA256 {
			p := evidence.PCRs{Bank: evidence.SHA256}
			for i, v := range q.GetPcrs().GetPcrs() {
				p.Value[i] = v
			}
			return a.GetEventLog(), []evidence.PCRs{p}
		}
	}
	t.Fatalf("%s: no quote of bank sha256", name)
	return nil, nil
}

// TestRealLoadOptions: what two real kernels' stubs measured is what LoadOptions
// makes of the command line that GRUB measured, with the text it puts before.
func TestRealLoadOptions(t *testing.T) {
	logs := realLogs(t)
	for _, name := range []string{"ubuntu-2404-amd-sevsnp.bin", "ubuntu-2404-intel-tdx.bin"} {
		p, _ := registers(t, logs[name], evidence.SHA256)
		l, err := Open(logs[name], []evidence.PCRs{p})
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, e := range l.Events() {
			line, ok := bytes.CutPrefix(e.Data, []byte("kernel_cmdline: "))
			if !ok {
				continue
			}
			if !l.Bound(&e) {
				t.Errorf("%s: the text of %q does not have its digest", name, e.Data)
			}
			_, bare := LoadOptions(evidence.SHA256, "BOOT_IMAGE="+strings.TrimSuffix(string(line), "\x00"))
			found = l.find(9, bare.Bytes()) != nil
		}
		if !found {
			t.Errorf("%s: the stub's measurement is not that of GRUB's command line", name)
		}
	}
}
