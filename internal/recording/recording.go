package recording

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/keystead/keystead/evidence"
)

// Format is the version that a manifest carries. It only ever grows:
//
//	1  event log, IMA log, PCR values, dpkg status, InRelease files, code set, reference set
const Format = "keystead-recording/1"

// The files of a recording.
const (
	FileManifest  = "manifest.json"
	FileEventLog  = "event-log.bin"
	FileIMALog    = "ima-log.bin"
	FilePCRs      = "pcrs.txt" // lines: phase, bank, register, value in hex
	FileStatus    = "dpkg-status"
	FileCodeSet   = "codeset.txt"
	FileReference = "reference-set" // absent until built
	DirReleases   = "inrelease"     // one file a repository, as its server sent it
)

// Manifest says what was recorded, when, and of what.
type Manifest struct {
	Format      string    `json:"format"`
	Recorded    time.Time `json:"recorded"`
	Kernel      string    `json:"kernel"` // uname -srvm
	CommandLine string    `json:"command_line"`
	PtraceScope int       `json:"ptrace_scope"` // kernel.yama.ptrace_scope
	Lockdown    string    `json:"lockdown"`
	Packages    int       `json:"packages"`
	Tools       []string  `json:"tools"` // versions of the emulator, firmware and software TPM
	Phases      []Mark    `json:"phases"`
}

// Mark is where a phase ends in the IMA log.
type Mark struct {
	Name    string `json:"name"`
	About   string `json:"about"`
	Entries int    `json:"ima_entries"`
	Bytes   int    `json:"ima_bytes"`
}

// Recording is a recorded boot.
type Recording struct {
	Manifest
	EventLog  []byte            // binary_bios_measurements
	Status    []byte            // dpkg status, trimmed to Package, Status, Architecture, Source, Version
	CodeSet   string            // text, unsigned
	Reference []byte            // reference set of the guest's packages; nil when the recording has none
	Releases  map[string][]byte // InRelease files by repository
	Phases    []Phase           // in the order in which they ran
}

// Phase is a part of the boot, with the evidence as it stood at its end.
type Phase struct {
	Mark
	IMALog []byte          // binary_runtime_measurements from the boot's start
	PCRs   []evidence.PCRs // all registers of each bank
}

//go:embed data
var data embed.FS

// Committed returns the recording that this program was built with.
func Committed() fs.FS {
	sub, err := fs.Sub(data, "data")
	if err != nil {
		panic(err) // the directory is embedded
	}
	return sub
}

// Load reads a recording. The files must be those that its manifest describes.
func Load(files fs.FS) (*Recording, error) {
	r := &Recording{Releases: map[string][]byte{}}
	raw := map[string][]byte{}
	err := fs.WalkDir(files, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(files, p)
		if dir, name := path.Split(p); dir == DirReleases+"/" {
			r.Releases[name] = b
		}
		raw[p] = b
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("recording: %w", err)
	}
	for _, name := range []string{FileManifest, FileEventLog, FileIMALog, FilePCRs, FileStatus, FileCodeSet} {
		if raw[name] == nil {
			return nil, fmt.Errorf("recording: %s is missing", name)
		}
	}
	d := json.NewDecoder(bytes.NewReader(raw[FileManifest]))
	d.DisallowUnknownFields()
	if err := d.Decode(&r.Manifest); err != nil {
		return nil, fmt.Errorf("recording: %s: %w", FileManifest, err)
	}
	if r.Format != Format {
		return nil, fmt.Errorf("recording: %s: format is %q, want %q", FileManifest, r.Format, Format)
	}
	r.EventLog, r.Status = raw[FileEventLog], raw[FileStatus]
	r.CodeSet, r.Reference = string(raw[FileCodeSet]), raw[FileReference]
	pcrs, err := ParsePCRs(raw[FilePCRs])
	if err != nil {
		return nil, fmt.Errorf("recording: %s: %w", FilePCRs, err)
	}
	before := 0
	for _, m := range r.Manifest.Phases {
		switch {
		case m.Bytes < before || m.Bytes > len(raw[FileIMALog]):
			return nil, fmt.Errorf("recording: phase %s ends at byte %d of an IMA log of %d, the phase before it at %d", m.Name, m.Bytes, len(raw[FileIMALog]), before)
		case pcrs[m.Name] == nil:
			return nil, fmt.Errorf("recording: %s has no values of phase %s", FilePCRs, m.Name)
		}
		before = m.Bytes
		r.Phases = append(r.Phases, Phase{Mark: m, IMALog: raw[FileIMALog][:m.Bytes:m.Bytes], PCRs: pcrs[m.Name]})
	}
	if len(r.Phases) == 0 {
		return nil, fmt.Errorf("recording: %s names no phase", FileManifest)
	}
	return r, nil
}

// Note is the line with which evidence from the recording must be shown.
func (r *Recording) Note() string {
	return fmt.Sprintf("replayed from a boot recorded on %s (%s, %d packages)", r.Recorded.Format(time.DateOnly), strings.TrimSpace(r.Kernel), r.Packages)
}
