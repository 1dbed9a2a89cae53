package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// How often progress is told: redrawn on a terminal, a line elsewhere.
const (
	redrawEvery = 100 * time.Millisecond
	lineEvery   = 5 * time.Second
	barWidth    = 24
)

// Progress tells on stderr how far long work has come: a bar on a terminal, now and
// then a line elsewhere. Several goroutines may use it.
type Progress struct {
	w        io.Writer
	terminal bool
	now      func() time.Time

	mu          sync.Mutex
	label       string
	done, total int64
	told        time.Time
	line        string // the last, where lines are told
}

// Progress starts telling of work under a label, such as "Unpacking packages".
func (a *App) Progress(label string) *Progress {
	f, ok := a.Stderr.(*os.File)
	return &Progress{w: a.Stderr, terminal: ok && term.IsTerminal(int(f.Fd())), now: time.Now, label: label}
}

// Set states how much of the work is done; a total of 0 is not known yet.
func (p *Progress) Set(done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done, p.total = done, total
	every := lineEvery
	if p.terminal {
		every = redrawEvery
	}
	if now := p.now(); now.Sub(p.told) >= every {
		p.told = now
		p.tell()
	}
}

// Close tells the last state and leaves the line. There may be no progress at all.
func (p *Progress) Close() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tell()
	if p.terminal {
		fmt.Fprintln(p.w)
	}
}

func (p *Progress) tell() {
	count := fmt.Sprint(p.done)
	percent := 0
	if p.total > 0 {
		count = fmt.Sprintf("%d of %d", p.done, p.total)
		percent = int(100 * min(p.done, p.total) / p.total)
	}
	if !p.terminal {
		if line := fmt.Sprintf("%s: %s\n", p.label, count); line != p.line {
			p.line = line
			io.WriteString(p.w, line)
		}
		return
	}
	full := barWidth * percent / 100
	bar := strings.Repeat("=", full) + strings.Repeat(" ", barWidth-full)
	fmt.Fprintf(p.w, "\r\x1b[K%s [%s] %3d%%  %s", p.label, bar, percent, count)
}
