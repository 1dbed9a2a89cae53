package recording_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/eventlog"
	"github.com/keystead/keystead/evidence/ima"
	"github.com/keystead/keystead/internal/recording"
	"github.com/keystead/keystead/internal/swtpm"
	"github.com/keystead/keystead/refval"
)

// A recording made afresh is held to the same as the committed one:
// go test ./internal/recording -recording DIR.
var fresh = flag.String("recording", "", "test the recording in this directory instead of the committed one")

func load(t *testing.T) *recording.Recording {
	t.Helper()
	files := recording.Committed()
	if *fresh != "" {
		files = os.DirFS(*fresh)
	}
	r, err := recording.Load(files)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestCommitted holds the recording to what it was made to show.
func TestCommitted(t *testing.T) {
	r := load(t)
	if r.PtraceScope != 3 || r.Lockdown != "confidentiality" || !strings.Contains(r.CommandLine, "lockdown=confidentiality") {
		t.Errorf("the guest was not locked down: ptrace_scope %d, lockdown %s, command line %s", r.PtraceScope, r.Lockdown, r.CommandLine)
	}
	var names []string
	for i, p := range r.Phases {
		names = append(names, p.Name)
		if _, err := eventlog.Open(r.EventLog, p.PCRs); err != nil {
			t.Errorf("phase %s: %v", p.Name, err)
		}
		list, err := ima.Open(r.Phases[len(r.Phases)-1].IMALog, p.PCRs, ima.Register)
		if err != nil {
			t.Fatalf("phase %s: %v", p.Name, err)
		}
		if err := list.CheckBootAggregate(p.PCRs); err != nil {
			t.Errorf("phase %s: %v", p.Name, err)
		}
		size, err := recording.PrefixSize(p.IMALog, p.Entries)
		if err != nil || list.Len() != p.Entries || size != len(p.IMALog) {
			t.Errorf("phase %s: the registers cover %d entries, the manifest says %d in %d bytes; those take %d bytes (%v)", p.Name, list.Len(), p.Entries, p.Bytes, size, err)
		}
		if i > 0 && (p.Entries <= r.Phases[i-1].Entries || !bytes.HasPrefix(p.IMALog, r.Phases[i-1].IMALog)) {
			t.Errorf("phase %s does not go on from the one before it", p.Name)
		}
	}
	if want := []string{"packaged", "altered", "unknown"}; !slices.Equal(names, want) {
		t.Fatalf("phases %v, want %v", names, want)
	}
	ran := func(phase int, path string) int {
		return bytes.Count(r.Phases[phase].IMALog, append([]byte(path), 0))
	}
	if ran(0, "/usr/bin/whoami") != 1 || ran(1, "/usr/bin/whoami") != 2 {
		t.Errorf("whoami was measured %d times in phase packaged, %d by the end of altered: want 1 and 2", ran(0, "/usr/bin/whoami"), ran(1, "/usr/bin/whoami"))
	}
	if ran(1, "/dev/shm/stranger") != 0 || ran(2, "/dev/shm/stranger") != 1 {
		t.Error("the stranger was not measured exactly once, in phase unknown")
	}
	if n := bytes.Count(r.Status, []byte("Status: install ok installed\n")); n != r.Packages {
		t.Errorf("%d installed packages, the manifest says %d", n, r.Packages)
	}
	if len(r.Releases) == 0 {
		t.Error("no InRelease files")
	}
}

// TestCodeSet compares the digests that were computed from the files which the
// guest booted with what its firmware and kernel measured.
func TestCodeSet(t *testing.T) {
	r := load(t)
	code, err := refval.ParseCodeSet(r.CodeSet)
	if err != nil {
		t.Fatal(err)
	}
	log, err := eventlog.Open(r.EventLog, r.Phases[0].PCRs)
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := log.Kernel()
	if err != nil {
		t.Fatal(err)
	}
	for boot := range code.Boots() {
		options, _ := eventlog.LoadOptions(evidence.SHA256, boot.CommandLine)
		if boot.Kernel.Measured() != kernel.Image || boot.Initrd.Measured() != kernel.Initrd || options != kernel.CommandLine {
			t.Errorf("the code set accepts kernel %v, initrd %v, load options %v; measured were %v, %v, %v",
				boot.Kernel, boot.Initrd, options, kernel.Image, kernel.Initrd, kernel.CommandLine)
		}
		if boot.CommandLine != r.CommandLine {
			t.Errorf("the code set's command line is %q, the kernel's was %q", boot.CommandLine, r.CommandLine)
		}
	}
	loaded := log.Boot().Loaded
	for _, loader := range code.Files() {
		if !slices.Contains(loaded, loader.Digest.String()) {
			t.Errorf("the code set's boot loader %v is not among the loaded images %v", loader.Digest, loaded)
		}
	}
}

// TestNamed looks every executed file up in the reference set of the guest's packages.
func TestNamed(t *testing.T) {
	r := load(t)
	set, err := refval.Parse(r.Reference)
	if err != nil {
		t.Fatal(err)
	}
	for phase, want := range [][]string{nil, {"/usr/bin/whoami"}, {"/usr/bin/whoami", "/dev/shm/stranger"}} {
		list, err := ima.Open(r.Phases[phase].IMALog, r.Phases[phase].PCRs, ima.Register)
		if err != nil {
			t.Fatal(err)
		}
		var unnamed []string
		for number, e := range list.All() {
			if _, ok := set.Lookup(keystead.Digest(e.FileDigest)); !ok && number > 1 {
				unnamed = append(unnamed, e.Path.String())
			}
		}
		if !slices.Equal(unnamed, want) {
			t.Errorf("phase %s: no package names %q, want %q", r.Phases[phase].Name, unnamed, want)
		}
	}
	for repository, release := range r.Releases {
		if !slices.ContainsFunc(set.Header().Repositories, func(h refval.Repository) bool { return h.Release == keystead.Sum(release) }) {
			t.Errorf("the reference set was not built from %s", repository)
		}
	}
}

// TestReplay replays phase after phase into a software TPM and compares every
// register of both banks with what the recorded machine's TPM held.
func TestReplay(t *testing.T) {
	r := load(t)
	ca, err := swtpm.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	soft, err := ca.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer soft.Stop()
	tpm, err := collect.OpenTPM(soft.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer tpm.Close()
	all := make([]int, evidence.NumPCRs)
	for i := range all {
		all[i] = i
	}
	for n, phase := range r.Phases {
		err := r.Replay(n, func(pcr int, digests map[evidence.Bank][]byte) error {
			return tpm.Extend(t.Context(), pcr, digests)
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range phase.PCRs {
			got, err := tpm.ReadPCRs(t.Context(), want.Bank, all)
			if err != nil {
				t.Fatal(err)
			}
			for i := range all {
				if !bytes.Equal(got.Value[i], want.Value[i]) {
					t.Errorf("phase %s, %v register %d: %x after the replay, recorded %x", phase.Name, want.Bank, i, got.Value[i], want.Value[i])
				}
			}
		}
	}
}

// The second phase follows from the first; a fresh TPM takes both in order.
func ExampleRecording_Replay() {
	r, err := recording.Load(recording.Committed())
	if err != nil {
		panic(err)
	}
	pcrs := evidence.PCRs{Bank: evidence.SHA256} // stands in for a TPM
	for n := range r.Phases[:2] {
		err := r.Replay(n, func(pcr int, digests map[evidence.Bank][]byte) error {
			pcrs.Extend(pcr, digests[evidence.SHA256])
			return nil
		})
		fmt.Println(r.Phases[n].Name, bytes.Equal(pcrs.Value[10], r.Phases[n].PCRs[0].Value[10]), err)
	}
	// Output:
	// packaged true <nil>
	// altered true <nil>
}

func TestLoadRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		file, old, new, want string
	}{
		"file missing":     {recording.FileEventLog, "", "", "event-log.bin is missing"},
		"other format":     {recording.FileManifest, recording.Format, "keystead-recording/2", "want \"keystead-recording/1\""},
		"unknown field":    {recording.FileManifest, `"recorded"`, `"recorder"`, "unknown field"},
		"mark past end":    {recording.FileManifest, `"ima_bytes": `, `"ima_bytes": 1`, "ends at byte"},
		"phase unmeasured": {recording.FilePCRs, "altered ", "ordinary ", "no values of phase altered"},
		"register 24":      {recording.FilePCRs, "sha256 23", "sha256 24", "is not the value of a register"},
		"short value":      {recording.FilePCRs, "sha384 0 ", "sha384 0 00", "is not the value of a register"},
	} {
		t.Run(name, func(t *testing.T) {
			files := copyOf(t, recording.Committed())
			if f := files[tc.file]; tc.old == "" {
				delete(files, tc.file)
			} else {
				f.Data = bytes.ReplaceAll(f.Data, []byte(tc.old), []byte(tc.new))
			}
			if _, err := recording.Load(files); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
		})
	}
}

func TestReplayRefuses(t *testing.T) {
	ignore := func(int, map[evidence.Bank][]byte) error { return nil }
	for name, tc := range map[string]struct {
		change func(r *recording.Recording)
		want   string
	}{
		"event log cut": {func(r *recording.Recording) { r.EventLog = r.EventLog[:len(r.EventLog)-9] }, "event data"},
		"no event log":  {func(r *recording.Recording) { r.EventLog = nil }, "first PCR"},
		"event register": {func(r *recording.Recording) {
			r.EventLog = bytes.Clone(r.EventLog)
			r.EventLog[firstEvent(r.EventLog)] = 24
		}, "PCR"},
		"entry register": {func(r *recording.Recording) { r.Phases[0].IMALog = append([]byte{24}, r.Phases[0].IMALog[1:]...) }, "PCR"},
		"half an entry":  {func(r *recording.Recording) { r.Phases[0].IMALog = r.Phases[0].IMALog[:r.Phases[0].Bytes-1] }, "template data"},
		"endless entry": {func(r *recording.Recording) {
			r.Phases[0].IMALog = append(bytes.Clone(r.Phases[0].IMALog[:24]), 255, 255, 255, 255)
		}, "template name"},
	} {
		t.Run(name, func(t *testing.T) {
			r := load(t)
			tc.change(r)
			err := r.Replay(0, ignore)
			var format *keystead.FormatError
			if !errors.As(err, &format) || format.Field != tc.want {
				t.Errorf("got %v, want a FormatError of field %q", err, tc.want)
			}
		})
	}
	full := errors.New("full")
	if err := load(t).Replay(0, func(int, map[evidence.Bank][]byte) error { return full }); !errors.Is(err, full) {
		t.Errorf("got %v, want what extending failed with", err)
	}
}

// firstEvent returns the offset of the event after the log's header.
func firstEvent(log []byte) int { return 32 + int(binary.LittleEndian.Uint32(log[28:])) }

func FuzzReplay(f *testing.F) {
	r, err := recording.Load(recording.Committed())
	if err != nil {
		f.Fatal(err)
	}
	two, err := recording.PrefixSize(r.Phases[0].IMALog, 2)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(r.EventLog[:firstEvent(r.EventLog)+400], r.Phases[0].IMALog[:two]) // short, for speed
	f.Fuzz(func(t *testing.T, events, log []byte) {
		r := recording.Recording{EventLog: events, Phases: []recording.Phase{{IMALog: log}}}
		err := r.Replay(0, func(pcr int, digests map[evidence.Bank][]byte) error {
			if pcr < 0 || pcr >= evidence.NumPCRs {
				t.Errorf("register %d", pcr)
			}
			for bank, d := range digests {
				if len(d) != bank.Size() {
					t.Errorf("%d bytes for bank %v", len(d), bank)
				}
			}
			return nil
		})
		if err != nil && !errors.As(err, new(*keystead.FormatError)) {
			t.Errorf("%v is no FormatError", err)
		}
	})
}

func FuzzPCRs(f *testing.F) {
	b, err := fs.ReadFile(recording.Committed(), recording.FilePCRs)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[:bytes.IndexByte(b, '\n')+1]) // short, for speed
	f.Fuzz(func(t *testing.T, text []byte) {
		phases, err := recording.ParsePCRs(text)
		for name, banks := range phases {
			again, err := recording.ParsePCRs(recording.FormatPCRs(name, banks))
			if err != nil || len(again[name]) != len(banks) {
				t.Errorf("%d banks of phase %q become %d (%v)", len(banks), name, len(again[name]), err)
			}
		}
		if err != nil && phases != nil {
			t.Error("values beside an error")
		}
	})
}

func copyOf(t *testing.T, files fs.FS) fstest.MapFS {
	out := fstest.MapFS{}
	err := fs.WalkDir(files, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(files, p)
		out[p] = &fstest.MapFile{Data: b}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
