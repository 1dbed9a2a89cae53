package testbed

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/recording"
)

// Step is something to do in a running guest, as root.
type Step struct {
	Name   string            // one word
	Script string            // for sh, which reads it; it is not executed as a file
	Files  map[string][]byte // by file name, in the script's working directory, not executable
}

// Result is what a guest left behind.
type Result struct {
	EventLog    []byte // binary_bios_measurements
	Status      []byte // /var/lib/dpkg/status at the end
	CommandLine string
	PtraceScope int
	Lockdown    string
	Kernel      string // uname -srvm
	Steps       []StepResult
}

// StepResult is the evidence as it stood after a step.
type StepResult struct {
	Name   string
	Status int    // of the script
	Output string // of the script
	PCRs   []evidence.PCRs
	IMALog []byte // read after the registers: it may hold more than they cover
}

func stepDir(i int, s Step) string { return fmt.Sprintf("%02d-%s", i+1, s.Name) }

// packSteps makes the disk from which the guest reads its steps: a tar archive.
func packSteps(steps []Step) ([]byte, error) {
	var disk bytes.Buffer
	w := tar.NewWriter(&disk)
	for i, s := range steps {
		files := map[string][]byte{stepDir(i, s) + ".sh": []byte(s.Script)}
		for name, content := range s.Files {
			files[name] = content
		}
		for name, content := range files {
			if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
				return nil, err
			}
			if _, err := w.Write(content); err != nil {
				return nil, err
			}
		}
	}
	err := w.Close()
	return append(disk.Bytes(), make([]byte, 512-disk.Len()%512)...), err
}

// readResult reads the disk on which the guest left its results.
func readResult(disk string, steps []Step) (*Result, error) {
	files, err := unpack(disk)
	if err != nil {
		return nil, fmt.Errorf("the results' disk: %w", err)
	}
	text := func(name string) string { return strings.TrimSpace(string(files[name])) }
	if files["uname"] == nil {
		return nil, errors.New("the guest left no results")
	}
	result := &Result{EventLog: files["event-log"], Status: files["dpkg-status"], CommandLine: text("cmdline"), Kernel: text("uname")}
	if result.PtraceScope, err = strconv.Atoi(text("ptrace_scope")); err != nil {
		return nil, fmt.Errorf("ptrace_scope: %w", err)
	}
	_, rest, _ := strings.Cut(text("lockdown"), "[")
	result.Lockdown, _, _ = strings.Cut(rest, "]")
	for i, s := range steps {
		dir := stepDir(i, s) + "/"
		step := StepResult{Name: s.Name, Output: string(files[dir+"output"]), IMALog: files[dir+"ima-log"]}
		if step.Status, err = strconv.Atoi(text(dir + "status")); err != nil {
			return nil, fmt.Errorf("step %s: status: %w", s.Name, err)
		}
		if step.PCRs, err = registers(s.Name, text(dir+"pcrs")); err != nil {
			return nil, fmt.Errorf("step %s: %w", s.Name, err)
		}
		result.Steps = append(result.Steps, step)
	}
	return result, nil
}

// unpack returns the files of the tar archive that a disk starts with.
func unpack(disk string) (map[string][]byte, error) {
	f, err := os.Open(disk)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	files := map[string][]byte{}
	for r := tar.NewReader(f); ; {
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
func registers(step, text string) ([]evidence.PCRs, error) {
	var lines strings.Builder
	for line := range strings.Lines(text) {
		fmt.Fprintf(&lines, "%s %s", step, line)
	}
	values, err := recording.ParsePCRs([]byte(lines.String()))
	if err == nil && values[step] == nil {
		err = errors.New("no register values")
	}
	return values[step], err
}
