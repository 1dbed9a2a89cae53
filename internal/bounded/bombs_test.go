package bounded_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/eventlog"
	"github.com/keystead/keystead/evidence/ima"
	"github.com/keystead/keystead/internal/bounded"
	"github.com/keystead/keystead/refval/apk"
	"github.com/keystead/keystead/refval/deb"
	"github.com/keystead/keystead/refval/rpm"
)

const (
	zeros  = 256 << 20 // bytes that each of the packed bombs unpacks to
	arenas = 192       // MiB that Go maps ahead of need: what counts is what was used
)

// bomb is what is made to take much of whoever reads it.
type bomb struct {
	make   func(t *testing.T) []byte
	open   func([]byte) error
	want   string        // in the refusal; "" if it is no refusal
	memory int           // MiB that the process may have at most, the bomb and Go itself included
	time   time.Duration // that opening it may take
}

var bombs = map[string]bomb{
	"IMA log": {repeated(evidence.MaxIMALog, imaEntry()), func(b []byte) error {
		_, err := ima.Open(b, registers(10), 10)
		return err
	}, string(keystead.ReasonLogAltered), 1024, 30 * time.Second},
	"firmware's log": {firmwareLog, func(b []byte) error {
		_, err := eventlog.Open(b, registers(4))
		return err
	}, string(keystead.ReasonLogTruncated), 256, 20 * time.Second},
	"bundle of nested arrays": {repeated(evidence.MaxBundle, []byte{0x81}), func(b []byte) error {
		_, err := evidence.Parse(append([]byte("\x71keystead-bundle/1"), b[64:]...))
		return err
	}, "nest", 1024, 20 * time.Second},
	"collateral of nested arrays": {repeated(evidence.MaxCollateral, []byte{0x81}), func(b []byte) error {
		_, err := evidence.ParseCollateral(b)
		return err
	}, "collateral", 128, 10 * time.Second},
	"gz":  {zeroed(gzipped), unpacked(".gz"), bounded.ErrTooLarge.Error(), 256, 20 * time.Second},
	"zst": {zeroed(zstandard), unpacked(".zst"), bounded.ErrTooLarge.Error(), 512, 20 * time.Second},
	"xz":  {kept("zeros.xz.gz"), unpacked(".xz"), bounded.ErrTooLarge.Error(), 256, 20 * time.Second},
	"bz2": {kept("zeros.bz2"), unpacked(".bz2"), bounded.ErrTooLarge.Error(), 256, 30 * time.Second},
	"rpm's headers": {zeroed(zstandard), func(b []byte) error {
		for _, err := range rpm.Unpack(b) {
			if err != nil {
				return err
			}
		}
		return nil
	}, "rpm-header", 128, 10 * time.Second},
	"apk's index": {zeroed(gzipped), func(b []byte) error {
		_, err := apk.OpenIndex(b, nil)
		return err
	}, string(keystead.ReasonPackageCorrupt), 128, 10 * time.Second},
	"a million packages of dpkg": {million(func(i int) string {
		return fmt.Sprintf("Package: p%d\nStatus: install ok installed\nArchitecture: all\nVersion: 1\n\n", i)
	}), func(b []byte) error {
		_, err := deb.ParseStatus(b)
		return err
	}, "", 1024, 30 * time.Second},
	"a million packages of apk": {million(func(i int) string { return fmt.Sprintf("P:p%d\nV:1-r0\nA:x86_64\n\n", i) }), func(b []byte) error {
		_, err := apk.ParseInstalled(b)
		return err
	}, "", 1024, 30 * time.Second},
}

func repeated(size int, with []byte) func(*testing.T) []byte {
	return func(*testing.T) []byte { return bytes.Repeat(with, size/len(with)) }
}

func million(stanza func(int) string) func(*testing.T) []byte {
	return func(*testing.T) []byte {
		var b bytes.Buffer
		for i := range 1_000_000 {
			b.WriteString(stanza(i))
		}
		return b.Bytes()
	}
}

// registers are one that a quote covers, and that no log leads to.
func registers(pcr int) []evidence.PCRs {
	p := evidence.PCRs{Bank: evidence.SHA256}
	p.Value[pcr] = bytes.Repeat([]byte{1}, 32)
	return []evidence.PCRs{p}
}

// imaEntry is the smallest one of template ima-ng.
func imaEntry() []byte {
	data := append(binary.LittleEndian.AppendUint32(nil, 40), "sha256:\x00"+strings.Repeat("d", 32)...)
	data = append(binary.LittleEndian.AppendUint32(data, 2), "f\x00"...)
	e := append(binary.LittleEndian.AppendUint32(nil, 10), strings.Repeat("h", 20)...)
	e = append(binary.LittleEndian.AppendUint32(e, 6), "ima-ng"...)
	return append(binary.LittleEndian.AppendUint32(e, uint32(len(data))), data...)
}

// firmwareLog has as many events as fit, with digests of the one bank that it states.
func firmwareLog(*testing.T) []byte {
	id := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 11, 0, 32, 0, 0)
	log := append(append(binary.LittleEndian.AppendUint32(nil, 0), 3, 0, 0, 0), make([]byte, 20)...)
	log = append(binary.LittleEndian.AppendUint32(log, uint32(len(id))), id...)
	event := []byte{4, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 11, 0}
	event = append(append(event, bytes.Repeat([]byte{1}, 32)...), 0, 0, 0, 0)
	return append(log, bytes.Repeat(event, (evidence.MaxEventLog-len(log))/len(event))...)
}

func gzipped(w io.Writer) (io.WriteCloser, error)   { return gzip.NewWriter(w), nil }
func zstandard(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }

func zeroed(pack func(io.Writer) (io.WriteCloser, error)) func(*testing.T) []byte {
	return func(t *testing.T) []byte {
		var b bytes.Buffer
		w, err := pack(&b)
		if err != nil {
			t.Fatal(err)
		}
		chunk := make([]byte, 1<<20)
		for range zeros / len(chunk) {
			if _, err := w.Write(chunk); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
}

// kept reads a bomb that xz or bzip2 made of as many zeroes; .gz is around it.
func kept(name string) func(*testing.T) []byte {
	return func(t *testing.T) []byte {
		f, err := os.Open(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var r io.Reader = f
		if strings.HasSuffix(name, ".gz") {
			if r, err = gzip.NewReader(f); err != nil {
				t.Fatal(err)
			}
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
}

func unpacked(suffix string) func([]byte) error {
	return func(b []byte) error {
		_, err := deb.Decompress(suffix, b, 64<<20)
		return err
	}
}

// bombVariable names the bomb that a process is to open, and the file that it is in.
const bombVariable = "KEYSTEAD_TEST_BOMB"

// TestBombs opens each bomb in a process of its own, whose memory the kernel bounds. It is
// refused for the reason that is its, in the time and memory that are stated.
func TestBombs(t *testing.T) {
	if name, file, ok := strings.Cut(os.Getenv(bombVariable), "="); ok {
		child(t, bombs[name], file)
		return
	}
	for name, b := range bombs {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "bomb")
			content := b.make(t)
			if err := os.WriteFile(file, content, 0o600); err != nil {
				t.Fatal(err)
			}
			c := exec.Command(os.Args[0], "-test.run=^TestBombs$", "-test.v")
			c.Env = append(os.Environ(), bombVariable+"="+name+"="+file)
			out, err := c.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out[:min(len(out), 4000)])
			}
			_, said, _ := strings.Cut(string(out), "measured: ")
			said, _, _ = strings.Cut(said, "\n")
			t.Logf("%d bytes: %s", len(content), said)
		})
	}
}

func child(t *testing.T, b bomb, file string) {
	most := uint64(b.memory+arenas) << 20
	if err := syscall.Setrlimit(syscall.RLIMIT_DATA, &syscall.Rlimit{Cur: most, Max: most}); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	err = b.open(content)
	took := time.Since(began)
	switch {
	case b.want == "" && err != nil:
		t.Errorf("refused: %v", err)
	case b.want != "" && err == nil:
		t.Error("taken")
	case b.want != "" && !errors.Is(err, keystead.Reason(b.want)) && !strings.Contains(err.Error(), b.want):
		t.Errorf("refused by %.400v, not by %s", err, b.want)
	}
	peak := high(t)
	if took > b.time || peak > b.memory {
		t.Errorf("took %v and %d MiB, at most %v and %d MiB are stated", took, peak, b.time, b.memory)
	}
	fmt.Printf("measured: %v, peak %d MiB of %d: %.160v\n", took.Round(time.Millisecond), peak, b.memory, err)
}

// high returns the most memory that this process had, in MiB.
func high(t *testing.T) int {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(status), "VmHWM:")
	kib, err := strconv.Atoi(strings.Fields(line)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib >> 10
}
