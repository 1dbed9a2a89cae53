package practice

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/recording"
	"github.com/keystead/keystead/internal/swtpm"
)

// The files of a machine, below its directory.
const (
	TPM  = "tpm"  // socket of the software TPM
	Root = "root" // what stands for the machine's file system

	eventLog = Root + "/sys/kernel/security/tpm0/binary_bios_measurements"
	imaLog   = Root + "/sys/kernel/security/ima/binary_runtime_measurements"
	status   = Root + "/var/lib/dpkg/status"
)

// A Machine is a software TPM and a root directory with the logs of a recorded boot.
type Machine struct {
	Dir string

	rec     *recording.Recording
	process *swtpm.TPM
	device  *collect.TPM
	phase   int // the next one
}

// Machine sets up a machine in its first phase. The directory must not exist yet; Stop
// removes it.
func (s *Stage) Machine(ctx context.Context, dir string) (m *Machine, err error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	m = &Machine{Dir: dir, rec: s.Recording}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Stop())
			m = nil
		}
	}()
	if m.process, err = s.ca.Start(ctx); err != nil {
		return m, err
	}
	if m.device, err = collect.OpenTPM(m.process.Socket); err != nil {
		return m, err
	}
	if err := os.Symlink(m.process.Socket, filepath.Join(dir, TPM)); err != nil {
		return m, err
	}
	for name, content := range map[string][]byte{eventLog: m.rec.EventLog, status: m.rec.Status} {
		if err := m.write(name, content); err != nil {
			return m, err
		}
	}
	_, err = m.Advance(ctx)
	return m, err
}

// write replaces a file at once: agents read while the demo writes.
func (m *Machine) write(name string, content []byte) error {
	path := filepath.Join(m.Dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", content, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Device returns the machine's TPM.
func (m *Machine) Device() *collect.TPM { return m.device }

// Socket returns where the TPM takes commands; a link to it is in Dir.
func (m *Machine) Socket() string { return m.process.Socket }

// Phase returns the recorded phase that the machine is in.
func (m *Machine) Phase() recording.Phase { return m.rec.Phases[m.phase-1] }

// More reports whether there is a further phase.
func (m *Machine) More() bool { return m.phase < len(m.rec.Phases) }

// Advance has the machine go through its next phase, and says which that was.
func (m *Machine) Advance(ctx context.Context) (recording.Mark, error) {
	p := m.rec.Phases[m.phase]
	err := m.rec.Replay(m.phase, func(pcr int, digests map[evidence.Bank][]byte) error {
		return m.device.Extend(ctx, pcr, digests)
	})
	if err != nil {
		return p.Mark, err
	}
	m.phase++
	return p.Mark, m.write(imaLog, p.IMALog)
}

// Stop ends the TPM and removes the machine's directory. It may be called twice.
func (m *Machine) Stop() error {
	var err error
	if m.device != nil {
		err = m.device.Close()
		m.device = nil
	}
	if m.process != nil {
		err = errors.Join(err, m.process.Stop())
	}
	return errors.Join(err, os.RemoveAll(m.Dir))
}
