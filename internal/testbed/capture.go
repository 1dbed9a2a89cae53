package testbed

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/recording"
)

// Capture is the evidence of a guest as it stood, unsigned.
type Capture struct {
	EventLog    []byte // binary_bios_measurements
	IMALog      []byte // read after the registers: it may hold more than they cover
	Status      []byte // /var/lib/dpkg/status
	PCRs        []evidence.PCRs
	CommandLine string
	PtraceScope int
	Lockdown    string
	Kernel      string // uname -srvm
}

// capture leaves a tar archive on standard output. Programs may start at any time, so
// it reads the registers until none did meanwhile. The log is read after them and so
// may hold more than they cover, never less.
const capture = `set -eu
ima=/sys/kernel/security/ima
rm -rf capture
mkdir capture
registers() {
  for bank in /sys/class/tpm/tpm0/pcr-*; do
    for register in "$bank"/*; do
      read -r value < "$register"
      echo "${bank##*/pcr-} ${register##*/} $value"
    done
  done
}
while :; do
  read -r before < $ima/runtime_measurements_count
  registers > capture/pcrs
  read -r after < $ima/runtime_measurements_count
  [ "$before" = "$after" ] && break
done
cp $ima/binary_runtime_measurements capture/ima-log
cp /sys/kernel/security/tpm0/binary_bios_measurements capture/event-log
cp /var/lib/dpkg/status capture/dpkg-status
cp /proc/cmdline /proc/sys/kernel/yama/ptrace_scope /sys/kernel/security/lockdown capture
uname -srvm > capture/uname
tar -cf - -C capture .
`

// Capture reads registers and logs.
func (g *Guest) Capture(ctx context.Context) (*Capture, error) {
	out, err := g.Run(ctx, capture)
	if err != nil {
		return nil, err
	}
	return readCapture(strings.NewReader(out))
}

func readCapture(archive io.Reader) (*Capture, error) {
	files, err := unpack(archive)
	if err != nil {
		return nil, fmt.Errorf("the guest's archive: %w", err)
	}
	text := func(name string) string { return strings.TrimSpace(string(files[name])) }
	c := &Capture{EventLog: files["event-log"], IMALog: files["ima-log"], Status: files["dpkg-status"], CommandLine: text("cmdline"), Kernel: text("uname")}
	if c.PtraceScope, err = strconv.Atoi(text("ptrace_scope")); err != nil {
		return nil, fmt.Errorf("ptrace_scope: %w", err)
	}
	_, rest, _ := strings.Cut(text("lockdown"), "[")
	c.Lockdown, _, _ = strings.Cut(rest, "]")
	if c.PCRs, err = registers(text("pcrs")); err != nil {
		return nil, fmt.Errorf("registers: %w", err)
	}
	return c, nil
}

// unpack returns the files of a tar archive.
func unpack(archive io.Reader) (map[string][]byte, error) {
	files := map[string][]byte{}
	for r := tar.NewReader(archive); ; {
		h, err := r.Next()
		switch {
		case errors.Is(err, io.EOF):
			return files, nil
		case err != nil:
			return nil, err
		case h.Typeflag != tar.TypeReg:
			continue
		}
		if files[path.Clean(h.Name)], err = io.ReadAll(r); err != nil {
			return nil, err
		}
	}
}

// registers reads lines of bank, register and value in hex.
func registers(text string) ([]evidence.PCRs, error) {
	var lines strings.Builder
	for line := range strings.Lines(text) {
		fmt.Fprintf(&lines, "guest %s", line)
	}
	values, err := recording.ParsePCRs([]byte(lines.String()))
	if err == nil && values["guest"] == nil {
		err = errors.New("no register values")
	}
	return values["guest"], err
}
