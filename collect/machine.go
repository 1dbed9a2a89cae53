// Package collect makes evidence bundles: it touches this machine's TPM, logs and
// package database. What it reads is sent, never judged here; whoever controls
// the machine controls all of it but the TPM's signature.
//
// Order matters: the quote is taken first and the logs are read after it, so that
// each log has the quoted state as a prefix.
package collect

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-configfs-tsm/configfs/configfsi"

	"github.com/keystead/keystead/evidence"
)

// Places below a machine's root.
const (
	eventLogPath = "sys/kernel/security/tpm0/binary_bios_measurements"
	imaLogPath   = "sys/kernel/security/ima/binary_runtime_measurements"
	dpkgPath     = "var/lib/dpkg/status"
	apkPath      = "lib/apk/db/installed"
)

// Machine is where logs and package databases are read: "/" or a tree that looks
// like it.
type Machine struct {
	Root string
	TSM  configfsi.Client // the kernel's configfs-tsm; nil: below Root
}

// A Sight is one thing that was looked for, and what came of it.
type Sight struct {
	What   string `json:"what"`
	Where  string `json:"where"`
	Found  bool   `json:"found"`
	Detail string `json:"detail"`         // the size, or what is wrong
	Hint   string `json:"hint,omitempty"` // why that may be, or what to do about it
}

// Read reads logs and package list into p. What is missing is left nil and told in the
// sights; an error is a file that is there and could not be read whole.
func (m Machine) Read(p *evidence.Parts) ([]Sight, error) { return m.read(p, nil) }

// read is Read with what is remembered of the rpm database.
func (m Machine) read(p *evidence.Parts, memory *rpmMemory) ([]Sight, error) {
	r := reader{root: m.Root}
	p.EventLog = r.file("UEFI event log", eventLogPath, evidence.MaxEventLog, "the machine has no TPM, did not boot by UEFI, or securityfs is not mounted")
	p.IMALog = r.file("IMA log", imaLogPath, evidence.MaxIMALog, "the kernel has no IMA, or securityfs is not mounted")
	p.Packages = r.packages(memory)
	return r.sights, errors.Join(r.errs...)
}

// Packages reads the package list alone: that of the first package manager which has
// one: dpkg, rpm, apk. It is nil where none has.
func (m Machine) Packages() (*evidence.PackageList, []Sight, error) {
	r := reader{root: m.Root}
	list := r.packages(nil)
	return list, r.sights, errors.Join(r.errs...)
}

// reader gathers what was looked for.
type reader struct {
	root   string
	sights []Sight
	errs   []error
}

func (r *reader) packages(memory *rpmMemory) *evidence.PackageList {
	if list := r.file("dpkg database", dpkgPath, evidence.MaxPackages, "this is not a Debian machine"); list != nil {
		return &evidence.PackageList{Format: evidence.FormatDpkgStatus, Data: list}
	}
	list, sight, err := Machine{Root: r.root}.rpmHeaders(memory)
	r.sights, r.errs = append(r.sights, sight), append(r.errs, err)
	if list != nil {
		return &evidence.PackageList{Format: evidence.FormatRPMHeaders, Data: list}
	}
	if list := r.file("apk database", apkPath, evidence.MaxPackages, "this is not an Alpine machine"); list != nil {
		return &evidence.PackageList{Format: evidence.FormatAPKInstalled, Data: list}
	}
	return nil
}

// file reads a file; nil if it is not there, or empty.
func (r *reader) file(what, path string, limit int, hint string) []byte {
	where := filepath.Join(r.root, path)
	data, err := readBounded(where, limit)
	s := Sight{What: what, Where: where, Found: err == nil && len(data) > 0}
	switch {
	case s.Found:
		s.Detail = fmt.Sprintf("%d bytes", len(data))
	case err == nil:
		s.Detail, s.Hint = "is empty", hint
	case errors.Is(err, fs.ErrNotExist):
		s.Detail, s.Hint = "is not there", hint
	case errors.Is(err, fs.ErrPermission):
		s.Detail, s.Hint = "may not be read by this user", "run as root"
		r.errs = append(r.errs, fmt.Errorf("%s: %w", what, err))
	default:
		s.Detail = err.Error()
		r.errs = append(r.errs, fmt.Errorf("%s: %w", what, err))
	}
	r.sights = append(r.sights, s)
	if !s.Found {
		return nil
	}
	return data
}

// Origin says which machine this is, for people.
func (m Machine) Origin(now time.Time) evidence.Origin {
	name, _ := os.Hostname() // a machine without a name is told apart by its keys
	return evidence.Origin{Hostname: name, Collected: now.Unix()}
}

// readBounded reads a file whole, or fails if it holds more than limit bytes. Files
// of securityfs have no size, so only reading tells.
func readBounded(path string, limit int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(data) > limit {
		return nil, fmt.Errorf("%s holds more than %d bytes, which is the most that a bundle takes", path, limit)
	}
	return data, nil
}
