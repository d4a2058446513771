package config

import (
	"fmt"
	"regexp"
	"strings"

	"homeward/configs/plainyaml"
)

var (
	noColon  = regexp.MustCompile(`^\s*(?:- +)?([a-z_]+) +([^\s:#][^:#]*)$`)
	noBlank  = regexp.MustCompile(`^\s*(?:- +)?([a-z_]+):([^\s/:#][^\s#]*)\s*(?:#.*)?$`)
	twoColon = regexp.MustCompile(`^\s*(?:- +)?([a-z_]+): +([^\s"'\[{|>#][^#"']*: .*)$`)
	dashTab  = regexp.MustCompile(`^ *(?:- *)?\t`)
	reserved = regexp.MustCompile("^\\s*(?:- +)?[a-z_]+: +[@`]")
)

// hint adds what would be right to what the parser says, which knows YAML and not what people get wrong in it. The
// mistake may stand on the line named or, where the parser noticed late, on one beside it.
func hint(data []byte, p plainyaml.Problem) string {
	if p.Line == 0 || p.Bad != "syntax error" && !strings.Contains(p.Bad, "inside of [ or {") || strings.Contains(p.Want, "not with tabs") {
		return p.Want
	}
	lines := strings.Split(string(data), "\n")
	if p.Line > len(lines) {
		return p.Want
	}
	more := ""
	if line, c := unclosed(lines[:p.Line]); line > 0 && (line < p.Line || p.Bad == "syntax error") {
		more = fmt.Sprintf("the %c of line %d is not closed", c, line)
	}
	for _, n := range []int{p.Line, p.Line + 1, p.Line - 1} {
		if more != "" {
			break
		}
		if n < 1 || n > len(lines) {
			continue
		}
		text := strings.TrimRight(lines[n-1], "\r")
		where := ""
		if n != p.Line {
			where = fmt.Sprintf(" in line %d", n)
		}
		if m := noBlank.FindStringSubmatch(text); m != nil {
			more = "want a blank after " + m[1] + ":" + where // the value could be a secret
		} else if m := noColon.FindStringSubmatch(text); m != nil {
			more = "want a colon after " + m[1] + where
		} else if dashTab.MatchString(text) {
			more = "want blanks, not tabs" + where
		} else if twoColon.MatchString(text) {
			more = "a text with a colon in it goes in quotes" + where
		} else if reserved.MatchString(text) {
			more = "a text that begins with it goes in quotes" + where
		}
	}
	if more == "" {
		more = askew(lines, p.Line)
	}
	if more == "" && strings.Contains(p.Want, "pre-defined") {
		more = "want nothing after the value; inside of '…' a quote is written twice"
	}
	if more == "" {
		return p.Want
	}
	if want, sentence := strings.CutSuffix(p.Want, "."); sentence {
		return want + ": " + more + "."
	}
	return p.Want + ": " + more
}

// unclosed is the line of the innermost [ or { that nothing closes.
func unclosed(lines []string) (line int, open byte) {
	type place struct {
		line int
		c    byte
	}
	var stack []place
	for i, text := range lines {
		var quote byte
	line:
		for k := range len(text) {
			begins := k == 0 || strings.IndexByte(" [{,", text[k-1]) >= 0
			switch c := text[k]; {
			case quote != 0:
				if c == quote && (quote == '\'' || text[k-1] != '\\') {
					quote = 0
				}
			case begins && (c == '"' || c == '\''):
				quote = c
			case begins && c == '#':
				break line
			case (c == '[' || c == '{') && len(stack) < 100:
				stack = append(stack, place{i + 1, c})
			case (c == ']' || c == '}') && len(stack) > 0:
				top := stack[len(stack)-1]
				if top.c+2 != c { // as ASCII has it
					return top.line, top.c
				}
				stack = stack[:len(stack)-1]
			}
		}
	}
	if len(stack) == 0 {
		return 0, 0
	}
	top := stack[len(stack)-1]
	return top.line, top.c
}

// askew finds, at line n or right after it, one that is indented as none that it can belong to.
func askew(lines []string, n int) string {
	for at := n; at <= n+1 && at <= len(lines); at++ {
		indent, ok := indentOf(lines[at-1])
		if !ok {
			continue
		}
		nearest := true // no key stands in between
		for above := at - 1; above >= 1; above-- {
			before, ok := indentOf(lines[above-1])
			if !ok {
				continue
			}
			if before == indent || before < indent && nearest && strings.HasSuffix(strings.TrimSpace(lines[above-1]), ":") {
				break
			}
			if before < indent {
				return fmt.Sprintf("line %d begins in column %d, and no key above that it can stand below: want the keys of one mapping one below the other", at, indent+1)
			}
			nearest = false
		}
	}
	return ""
}

// indentOf is where a line's key begins, behind its dash; ok is false where there is nothing but a remark.
func indentOf(line string) (int, bool) {
	rest := strings.TrimLeft(line, " ")
	if rest == "" || rest == "\r" || rest[0] == '#' {
		return 0, false
	}
	n := len(line) - len(rest)
	for strings.HasPrefix(rest, "- ") {
		cut := strings.TrimLeft(rest[2:], " ")
		n += len(rest) - len(cut)
		rest = cut
	}
	return n, true
}
