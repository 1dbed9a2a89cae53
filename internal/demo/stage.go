package demo

import (
	"context"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"

	"github.com/keystead/keystead/internal/recording"
	"github.com/keystead/keystead/internal/swtpm"
)

// The files of a stage, below its directory.
const (
	StageTPM       = "tpm"         // socket of the software TPM
	StageRoot      = "root"        // what stands for the host's file system
	StageEKRoot    = "ek-root.pem" // authority of the TPM's endorsement certificate
	StageReference = "host.refs"   // reference set of the host's packages
	StageCodeSet   = "codeset.txt" // how the host boots, unsigned

	stageEventLog = StageRoot + "/sys/kernel/security/tpm0/binary_bios_measurements"
	stageIMALog   = StageRoot + "/sys/kernel/security/ima/binary_runtime_measurements"
	stageStatus   = StageRoot + "/var/lib/dpkg/status"
)

// Stage is the demo's host, laid out as files for commands that collect evidence:
// a software TPM, and a root directory with the recorded logs.
type Stage struct {
	rec  *recording.Recording
	dir  string
	ca   string // the authority's directory
	host *host
}

// NewStage starts the host in its first phase. The directory must not exist yet; Stop
// removes it.
func NewStage(ctx context.Context, dir string) (s *Stage, err error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	s = &Stage{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Stop())
			s = nil
		}
	}()
	if s.rec, err = recording.Load(recording.Committed()); err != nil {
		return s, err
	}
	if s.ca, err = os.MkdirTemp("", "keystead-demo-"); err != nil {
		return s, err
	}
	ca, err := swtpm.NewCA(s.ca)
	if err != nil {
		return s, err
	}
	if s.host, err = startHost(ctx, ca, s.rec); err != nil {
		return s, err
	}
	for name, content := range map[string][]byte{
		stageEventLog:  s.rec.EventLog,
		stageStatus:    s.rec.Status,
		StageReference: s.rec.Reference,
		StageCodeSet:   []byte(s.rec.CodeSet),
		StageEKRoot:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Root.Raw}),
	} {
		if err := s.write(name, content); err != nil {
			return s, err
		}
	}
	if err := os.Symlink(s.host.process.Socket, filepath.Join(dir, StageTPM)); err != nil {
		return s, err
	}
	_, err = s.Advance(ctx)
	return s, err
}

func (s *Stage) write(name string, content []byte) error {
	path := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o644)
}

// More reports whether there is a further phase.
func (s *Stage) More() bool { return s.host.phase < len(s.rec.Phases) }

// Advance has the host go through its next phase, and says which that was.
func (s *Stage) Advance(ctx context.Context) (recording.Mark, error) {
	p := s.rec.Phases[s.host.phase]
	if err := s.host.advance(ctx); err != nil {
		return p.Mark, err
	}
	return p.Mark, s.write(stageIMALog, p.IMALog)
}

// First returns the phase that a stage begins with.
func (s *Stage) First() recording.Mark { return s.rec.Phases[0].Mark }

// Stop ends the TPM and removes all files of the stage.
func (s *Stage) Stop() error {
	var err error
	if s.host != nil {
		err = s.host.stop()
	}
	if s.ca != "" {
		err = errors.Join(err, os.RemoveAll(s.ca))
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}
