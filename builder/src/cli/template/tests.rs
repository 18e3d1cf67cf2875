//! What templates give, and what is said of those that make no sense. `GIVEN` and `PRINTED` are what Docker 28 gives for
//! the same templates and values.

use serde_json::json;

use super::value::MADE_BYTES_MAX;
use super::*;

fn value() -> Value {
    json!({
        "ID": "0a1b", "Size": 12, "Half": 0.5, "Big": 1e21, "Small": 0.00001, "None": null, "Yes": true, "No": false,
        "Html": "<a href=\"x\">&'b'</a>", "Empty": "", "Nothing": [], "NoMap": {},
        "Tags": ["a:1", "b:2", "c:3"],
        "Mixed": ["x", null, true, 1.5, {"k": null}],
        "Config": {"Env": ["A=1"], "Labels": {"d": "e", "a.b": "c"}},
        "Networks": {"two": {"IPAddress": "10.0.0.2"}, "one": {"IPAddress": "10.0.0.1"}},
        "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "53/udp": null},
    })
}

#[track_caller]
fn check(template: &str, expected: Result<&str, &str>) {
    let rendered = Template::parse(template).and_then(|template| template.render(&value()));
    match (rendered, expected) {
        (Ok(text), Ok(expected)) => assert_eq!(text, expected, "{template}"),
        (Err(error), Err(word)) => {
            let said = error.render(false);
            assert!(said.contains(word), "{template}: {said}");
        }
        (found, _) => panic!("{template}: {found:?}"),
    }
}

const GIVEN: &[(&str, &str)] = &[
    // Fields, and how values are shown.
    ("{{.ID}}", "0a1b"),
    ("<{{ .ID }}>\\t{{.Size}}\\n", "<0a1b>\t12\n"),
    ("{{.Tags}} {{.Config}}", "[a:1 b:2 c:3] map[Env:[A=1] Labels:map[a.b:c d:e]]"),
    ("{{.Mixed}} {{.NoMap}} {{.Nothing}}", "[x <nil> true 1.5 map[k:<nil>]] map[] []"),
    ("{{.Half}} {{.Big}} {{.Small}} {{.Yes}}", "0.5 1e+21 1e-05 true"),
    ("{{.None}}", "<no value>"),
    ("{{.Config.Labels.zz}} {{.Networks.three.IPAddress}}", "<no value> <no value>"),
    ("{{(.Config).Env}} {{($).ID}} {{$.Config.Labels.d}} {{$}}{{/**/}}", WHOLE),
    // Constants.
    ("{{\"a\\tb\\x41\\u00e9\\\"\"}}{{`a\\t`}}{{'a'}} {{'\\n'}} {{'\\''}}", "a\tbA\u{e9}\"a\\t97 10 39"),
    (
        "{{1_000}} {{0x1F}} {{0b11}} {{0o17}} {{017}} {{1.5}} {{1e3}} {{.5}} {{-3}} {{+4}}",
        "1000 31 3 15 15 1.5 1000 0.5 -3 4",
    ),
    ("{{1e6}} {{1234567.0}} {{123456.0}} {{0.0001}}", "1e+06 1.234567e+06 123456 0.0001"),
    ("{{true}} {{false}} {{print nil}} {{9223372036854775807}}", "true false <nil> 9223372036854775807"),
    // Trimming and comments.
    ("a {{- .ID -}} b", "a0a1bb"),
    ("{{.ID -}}\\n  x", "0a1bx"),
    ("a  {{-3}}", "a  -3"),
    ("{{/* c */}}a {{- /* d */ -}}  b{{- /* { */}} c", "ab c"),
    ("{{.ID\n|\nupper}}", "0A1B"),
    // Pipelines.
    ("{{upper .ID}}{{.ID | upper | lower}}", "0A1B0a1b"),
    ("{{.ID | printf \"%-6s|\"}}{{\"x\" | printf \"%s-%s\" \"y\"}}", "0a1b  |y-x"),
    ("{{index .Tags (len (slice .Tags 2))}} {{print (.ID) (.Size)}}", "b:2 0a1b12"),
    (
        "{{(index (index .Ports \"80/tcp\") 0).HostPort}} {{index .Ports \"80/tcp\" 0 \"HostIp\"}}",
        "8080 0.0.0.0",
    ),
    ("{{printf \"%s\" (index .Tags 0) | upper}}", "A:1"),
    // Conditions.
    ("{{if .Yes}}yes{{else}}no{{end}}{{if .No}}yes{{else}}no{{end}}", "yesno"),
    ("{{if .No}}a{{else if .Empty}}b{{else if .Yes}}c{{else}}d{{end}}", "c"),
    (
        "{{if .None}}1{{end}}{{if .Nothing}}2{{end}}{{if .NoMap}}3{{end}}{{if 0}}4{{end}}{{if 0.0}}5{{end}}{{if .ID}}6{{end}}",
        "6",
    ),
    ("{{with .Config}}{{.Env}}{{with .Labels}}{{.d}}{{$.ID}}{{end}}{{end}}", "[A=1]e0a1b"),
    ("{{with .None}}a{{else with .ID}}{{.}}{{else}}c{{end}}{{with .None}}{{else}}{{.ID}}{{end}}", "0a1b0a1b"),
    ("{{if and .Yes (not .No)}}y{{end}}{{if or .No .None}}n{{end}}", "y"),
    (
        "{{and 1 0 2}} {{or 0 \"\" \"x\"}} {{and .ID .None}} {{or .None .Nothing}} {{or 1 (index .Tags 9)}}",
        "0 x <no value> [] 1",
    ),
    (
        "{{eq .ID \"a\" \"0a1b\"}} {{ne 1 2}} {{lt 1 2}} {{le \"a\" \"b\"}} {{gt 2.5 1.5}} {{ge 12 12}}",
        "true true true true true true",
    ),
    (
        "{{eq .None \"a\"}} {{eq .None nil}} {{ne .None \"a\"}} {{eq true .Yes}} {{eq (len .Tags) 3}}",
        "false true true true true",
    ),
    // Loops.
    ("{{range .Networks}}{{.IPAddress}} {{end}}", "10.0.0.1 10.0.0.2 "),
    ("{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}", "a.b=c;d=e;"),
    ("{{range $i, $t := .Tags}}{{if $i}}, {{end}}{{$t}}{{end}}", "a:1, b:2, c:3"),
    ("{{range $t := .Tags}}{{$t}}{{.}}{{end}}", "a:1a:1b:2b:2c:3c:3"),
    (
        "{{range $p, $c := .Ports}}{{$p}} -> {{range $c}}{{.HostIp}}:{{.HostPort}}{{else}}none{{end}} {{end}}",
        "53/udp -> none 80/tcp -> 0.0.0.0:8080 ",
    ),
    (
        "{{range .Nothing}}x{{else}}none{{end}}{{range .None}}x{{else}}{{.ID}}{{end}}{{range 0}}{{else}}0{{end}}",
        "none0a1b0",
    ),
    ("{{range 3}}{{.}}{{end}}{{range $i := 2}}{{$i}}{{end}}", "01201"),
    ("{{range .Tags}}{{if eq . \"b:2\"}}{{continue}}{{end}}{{.}}{{end}}", "a:1c:3"),
    ("{{range .Tags}}{{if eq . \"b:2\"}}{{break}}{{end}}{{.}}{{end}}", "a:1"),
    ("{{range 2}}{{range 9}}{{if .}}{{break}}{{end}}x{{end}}y{{end}}", "xyxy"),
    ("{{range split \"a,b\" \",\"}}<{{.}}>{{end}}", "<a><b>"),
    // Variables.
    ("{{$x := 1}}{{range .Tags}}{{$x = .}}{{end}}{{$x}}", "c:3"),
    ("{{$x := 1}}{{if true}}{{$x := 2}}{{$x}}{{end}}{{$x}}", "21"),
    ("{{with $x := .ID}}{{$x}}{{.}}{{end}}{{$y := .Config}}{{$y.Labels.d}}{{($y).Env}}", "0a1b0a1be[A=1]"),
    ("{{$x := \"\"}}{{range $x = .Tags}}{{end}}{{$x}}{{$y := \"a\" | upper}}{{$y}}", "c:3A"),
    ("{{range $i, $x := .Tags}}{{$x := $i}}{{$x}}{{end}}", "012"),
    // Templates in templates.
    (
        "{{define \"x\"}}<{{.}}{{$}}>{{end}}{{template \"x\" .ID}}{{template \"x\"}}",
        "<0a1b0a1b><<no value><no value>>",
    ),
    ("{{block \"y\" .ID}}[{{.}}]{{end}}{{template \"y\" 5}}", "[0a1b][5]"),
    (
        "{{define \"n\"}}{{if .}}{{len .}}{{template \"n\" (slice . 1)}}{{end}}{{end}}{{template \"n\" .Tags}}",
        "321",
    ),
    // Functions.
    (
        "{{json .Tags}}{{json .None}}{{json \"<&>\"}}{{json .Config}}",
        r#"["a:1","b:2","c:3"]null"<&>"{"Env":["A=1"],"Labels":{"a.b":"c","d":"e"}}"#,
    ),
    ("{{join (split \"a,b\" \",\") \"-\"}}", "a-b"),
    (
        "{{split \"a,b,c\" \",\"}} {{index (split \"a,b\" \",\") 1}} {{json (split \"\u{e9}b\" \"\")}} {{len (split \"\" \",\")}}",
        "[a b c] b [\"\u{e9}\",\"b\"] 1",
    ),
    (
        "{{title \"hello w\u{f6}rld foo_bar-baz it's\"}} {{lower \"\u{c0}B\"}} {{upper \"stra\u{df}e\"}}",
        "Hello W\u{f6}rld Foo_bar-Baz It'S \u{e0}b STRA\u{df}E",
    ),
    (
        "{{pad \"a\" 2 3}}|{{pad \"\" 2 3}}|{{truncate \"hello\" 2}} {{truncate \"hello\" 10}}",
        "  a   ||he hello",
    ),
    ("{{len .ID}} {{len .Tags}} {{len .Config}} {{len \"\u{e9}\"}} {{len .Nothing}}", "4 3 2 2 0"),
    (
        "{{index .Tags 1}} {{index .ID 1}} {{index .Config.Labels \"a.b\"}} {{index .Tags}}",
        "b:2 97 c [a:1 b:2 c:3]",
    ),
    ("<{{index .Networks \"x\"}}>", "<<no value>>"),
    (
        "{{slice .Tags 1 2}} {{slice .Tags 1}} {{slice .Tags 0 1 2}} {{slice \"hello\" 1 3}} {{slice \"hello\"}}",
        "[b:2] [b:2 c:3] [a:1] el hello",
    ),
    ("{{not .None}}{{not .ID}}", "truefalse"),
    (
        "{{print nil 1 2 \"a\" \"b\" 3 .None}}{{print}}|{{print .Tags .Tags}}",
        "<nil> 1 2ab3 <nil>|[a:1 b:2 c:3] [a:1 b:2 c:3]",
    ),
    ("{{println .ID .Size}}{{println}}{{println .None}}", "0a1b 12\n\n<nil>\n"),
    ("{{html .Html}} {{html 1 2}}", "&lt;a href=&#34;x&#34;&gt;&amp;&#39;b&#39;&lt;/a&gt; 1 2"),
    (
        "{{js \"it's <b> \\\"x\\\" \\n & = \\u2028 \u{e9} /\"}}",
        "it\\'s \\u003Cb\\u003E \\\"x\\\" \\u000A \\u0026 \\u003D \\u2028 \u{e9} /",
    ),
    ("{{html .Tags .None 1}} {{urlquery nil}}", "[a:1 b:2 c:3]&lt;no value&gt;1 %3Cno+value%3E"),
    ("{{urlquery \"a b&c=\u{e9}/~-_.\" \"x\"}}", "a+b%26c%3D%C3%A9%2F~-_.x"),
];

/// The value as a whole, after three parts of it.
const WHOLE: &str = "[A=1] 0a1b e map[Big:1e+21 Config:map[Env:[A=1] Labels:map[a.b:c d:e]] Empty: Half:0.5 Html:<a href=\"x\">&'b'</a> \
     ID:0a1b Mixed:[x <nil> true 1.5 map[k:<nil>]] Networks:map[one:map[IPAddress:10.0.0.1] two:map[IPAddress:10.0.0.2]] \
     No:false NoMap:map[] None:<nil> Nothing:[] Ports:map[53/udp:<nil> 80/tcp:[map[HostIp:0.0.0.0 HostPort:8080]]] \
     Size:12 Small:1e-05 Tags:[a:1 b:2 c:3] Yes:true]";

/// What Go refuses, or gives for what has a type there: numbers are numbers, maps of texts give no text for what they
/// have not, and nothing has no fields and no length.
const OF_UNTYPED: &[(&str, &str)] = &[
    ("{{.None.Deeper}} {{len .None}}", "<no value> 0"),
    ("{{ge .Size 12}} {{eq .Size 12.0}} {{lt (len .Tags) 3.5}} {{printf \"%d\" .Size}}", "true true true 12"),
    ("{{join .Tags \", \"}}|{{join .None \"-\"}}", "a:1, b:2, c:3|"),
    ("<{{index .Config.Labels \"x\"}}><{{index .None \"x\"}}><{{index .NoMap \"x\"}}>", "<><><>"),
    ("{{truncate \"\u{e9}\" 1}}|", "|"),
    ("{{printf \"%99999999999999999999d|%.50001d\" 1 2}}", "%!(BADWIDTH)1|%!(BADPREC)2"),
];

#[test]
fn values_have_no_types() {
    for (template, expected) in OF_UNTYPED {
        check(template, Ok(expected));
    }
}

#[test]
fn templates_give_what_go_gives() {
    for (template, expected) in GIVEN {
        check(template, Ok(expected));
    }
}

/// What is given to `printf`, and what it makes of it.
const PRINTED: &[(&str, &str)] = &[
    (r#""[%5s|%-5s|%05d|%5d|%-5d|%+d]" "ab" "ab" 42 42 42 42"#, "[   ab|ab   |00042|   42|42   |+42]"),
    (r#""%x %X %#x %o %b %c %U %q" 255 255 255 8 5 65 65 65"#, "ff FF 0xff 10 101 A U+0041 'A'"),
    (
        r#""%.2f|%8.3f|%-8.1f|%08.2f|%+.1f|%.0f" 3.14159 3.14159 3.14159 3.14159 2.0 2.5"#,
        "3.14|   3.142|3.1     |00003.14|+2.0|2",
    ),
    (
        r#""%e|%g|%G|%E|%.3g|%.10g" 1234.5 1e-7 1e21 1.5 1234.5 1234.5"#,
        "1.234500e+03|1e-07|1E+21|1.500000E+00|1.23e+03|1234.5",
    ),
    (r#""%08.3f|%+08.2f|% .2f|%08d" -3.14159 3.14159 1.5 -42"#, "-003.142|+0003.14| 1.50|-0000042"),
    (
        r#""%.1s|%5.1s|%q|%x|%X|% x|%#x|%# x|%#q" "h" "xyz" "a\"b\n" "hi" "hi" "hi" "hi" "hi" "ra""#,
        r#"h|    x|"a\"b\n"|6869|6869|68 69|0x6869|0x68 0x69|`ra`"#,
    ),
    (r#""%d %s %s %t %f" "x" 5 true 1 1"#, "%!d(string=x) %!s(int=5) %!s(bool=true) %!t(int=1) %!f(int=1)"),
    (r#""%d %d" 1"#, "1 %!d(MISSING)"),
    (r#""x" 1 "a" nil"#, "x%!(EXTRA int=1, string=a, <nil>)"),
    (r#""100%""#, "100%!(NOVERB)"),
    (r#""%z %!" 1"#, "%!z(int=1) %!!(MISSING)"),
    (r#""%v %v %v" .None .Tags .Mixed"#, "<nil> [a:1 b:2 c:3] [x <nil> true 1.5 map[k:<nil>]]"),
    (
        r#""%s %q %x %10s" .Tags .Config.Labels .Config.Env .Config.Env"#,
        r#"[a:1 b:2 c:3] map["a.b":"c" "d":"e"] [413d31] [       A=1]"#,
    ),
    (
        r#""%d %s" .Mixed .None"#,
        "[%!d(string=x) <nil> %!d(bool=true) %!d(float64=1.5) map[%!d(string=k):<nil>]] %!s(<nil>)",
    ),
    (r#""%*d|%-*d|%.*f|%*d|" 5 42 5 42 2 3.14159 -5 4"#, "   42|42   |3.14|4    |"),
    (r#""%*d %.*f" "a" 5 -1 1.5"#, "%!(BADWIDTH)5 %!(BADPREC)1.500000"),
    (r#""%[2]d %[1]d %[3]d %[x]d %[2]*[1]d" 1 2"#, "2 1 %!d(BADINDEX) %!d(BADINDEX)  1"),
    (r#""%6v|%-6v|%06v|%10t|%+v" 12 12 12 true 1"#, "    12|12    |000012|      true|1"),
    (r#""%T %T %T %T %T %T" 1 "a" true 1.5 .Tags .None"#, "int string bool float64 []interface {} <nil>"),
    (
        r#""%#v %#v %#v %#v" 1 "a" .Tags .Config.Labels"#,
        r#"1 "a" []interface {}{"a:1", "b:2", "c:3"} map[string]interface {}{"a.b":"c", "d":"e"}"#,
    ),
    (r#""%% %5% %-5%""#, "% % %"),
    (
        r#""% d|% 05d|%+05d|%-05d|%+x|%x|%.3d|%8.3d|%08.3d|%.0d|" 5 5 5 5 255 -255 5 5 5 0"#,
        " 5| 0005|+0005|5    |+ff|-ff|005|     005|     005||",
    ),
    (r#""%-3s|%3s|%03s" "é" "é" "é""#, "é  |  é|00é"),
    (r#""%c%c|%08U|%#.6U" -1 1114112 101 102"#, "\u{fffd}\u{fffd}|  U+0065|U+000066 'f'"),
    (
        r#""%q %+q %#q" "\x01\x7f\u00a0\u200b😀\a" "😀é" "a`b""#,
        "\"\\x01\\x7f\\u00a0\\u200b😀\\a\" \"\\U0001f600\\u00e9\" \"a`b\"",
    ),
    (r#""%08b|%#b|%#o|%O|%#X|%#+q" 5 5 8 8 255 "x""#, "00000101|0b101|010|0o10|0XFF|`x`"),
];

#[test]
fn printf_prints_as_go_does() {
    for (given, expected) in PRINTED {
        check(&format!("{{{{printf {given}}}}}"), Ok(expected));
    }
}

/// What makes no sense, and a part of what is said.
const REFUSED: &[(&str, &str)] = &[
    ("ID", "json"),
    ("{{.ID", "`{{` has no `}}`"),
    ("{{.ID}", "ends with `}}`"),
    ("{{}}", "is missing"),
    ("{{.Id}}", "hint: there are Big, Config, Empty"),
    ("{{.Id}}", "1 | {{.Id}}\n  |   ^^^"),
    ("{{.Config.env}}", "there are Env, Labels"),
    ("{{.ID.X}}", "nothing with fields before `.X`"),
    ("{{.Config.Labels.d.e}}", "nothing with fields before `.e`"),
    ("{{range .Tags}}", "`{{range}}` has no `{{end}}`"),
    ("{{if .ID}}{{else}}", "`{{if}}` has no `{{end}}`"),
    ("{{range .Tags}}{{else}}{{else}}{{end}}", "second `{{else}}`"),
    ("{{end}}", "`{{end}}` ends nothing"),
    ("{{else}}", "`{{else}}` belongs to nothing"),
    ("{{define \"x\"}}{{else}}{{end}}", "`{{else}}` belongs to nothing"),
    ("{{if}}x{{end}}", "is missing"),
    ("{{if .ID}}a{{else with .ID}}b{{end}}", "after `else`"),
    ("{{break}}", "outside of a `{{range}}`"),
    ("{{range .Tags}}{{define \"x\"}}{{continue}}{{end}}{{end}}", "outside of a `{{range}}`"),
    ("{{range .Tags}}{{break 1}}{{end}}", "after `break`"),
    ("{{range .ID}}{{end}}", "`range` goes over a list"),
    ("{{range $a, $b := 3}}{{end}}", "has one variable"),
    ("{{range $a, $b, $c := .Tags}}{{end}}", "two variables"),
    ("{{$a, $b := .Tags}}", "one variable"),
    ("{{range $a, := .Tags}}{{end}}", "no variable `$a`"),
    ("{{$x}}", "no variable `$x`"),
    ("{{$x = 1}}", "no variable `$x`"),
    ("{{$ := 1}}", "stays so"),
    ("{{range .Tags}}{{$x := .}}{{end}}{{$x}}", "no variable `$x`"),
    ("{{if $x := .ID}}{{end}}{{$x}}", "no variable `$x`"),
    ("{{$x := 1}}{{define \"a\"}}{{$x}}{{end}}", "no variable `$x`"),
    ("{{template \"nope\"}}", "no template `nope`"),
    ("{{define \"a\"}}{{end}}{{define \"a\"}}{{end}}", "two templates `a`"),
    ("{{define x}}{{end}}", "in quotes"),
    ("{{.ID .Size}}", "only a function can be given something"),
    ("{{.ID | .Size}}", "only a function can be given what is before `|`"),
    ("{{| upper}}", "is missing"),
    ("{{.ID |}}", "is missing"),
    ("{{nil}}", "`nil` alone"),
    ("{{(.ID}}", "`(` has no `)`"),
    ("{{.ID)}}", "`}}` is expected"),
    ("{{foo .ID}}", "no function `foo`"),
    ("{{print if}}", "at the start of an action"),
    ("{{.ID \"}}", "not closed"),
    ("{{.ID `}}", "not closed"),
    ("{{print \"a\nb\"}}", "not closed"),
    ("{{/* c }}", "no `*/`"),
    ("{{/* c */ .ID}}", "nothing beside it"),
    ("{{..ID}}", "a space, `|` or `}}`"),
    ("{{.ID.}}", "a space, `|` or `}}`"),
    ("{{\"abc\".X}}", "a space, `|` or `}}`"),
    ("{{print(1)}}", "a space, `|` or `}}`"),
    ("{{.ID,.Size}}", "a space, `|` or `}}`"),
    ("{{@}}", "`@` makes no sense"),
    ("{{\"\\q\"}}", "no text that can be quoted"),
    ("{{\"\\xff\"}}", "no text that can be quoted"),
    ("{{\"\\u+123\"}}", "no text that can be quoted"),
    ("{{'ab'}}", "one character"),
    ("{{''}}", "one character"),
    ("{{12abc}}", "no number"),
    ("{{99999999999999999999}}", "no number"),
    ("{{1e400}}", "no number"),
    ("{{0x}}", "no number"),
    ("{{09}}", "no number"),
    ("{{upper}}", "takes 1 argument, not 0"),
    ("{{.ID | upper \"x\"}}", "takes 1 argument, not 2"),
    ("{{slice .Tags 0 1 2 3}}", "4 arguments at most"),
    ("{{eq 1}}", "2 arguments at least"),
    ("{{upper .Size}}", "`upper` takes a text, not 12"),
    ("{{join .ID \",\"}}", "takes a list"),
    ("{{len 5}}", "takes a text, a list or a map"),
    ("{{index .Tags 3}}", "`index` 3 of what has 3"),
    ("{{index .Tags -1}}", "`index` -1 of what has 3"),
    ("{{index .Tags \"x\"}}", "cannot look up"),
    ("{{index .Config.Labels 1}}", "cannot look up"),
    ("{{index .Ports \"53/udp\" 0}}", "in nothing"),
    ("{{slice .Tags 4}}", "`slice` at 4"),
    ("{{slice .Tags 2 1}}", "not in order"),
    ("{{slice \"abc\" 0 1 2}}", "two places"),
    ("{{slice \"\u{e9}\" 1}}", "cut a character"),
    ("{{pad \"a\" -1 3}}", "cannot add -1"),
    ("{{truncate \"hello\" -1}}", "cannot leave -1"),
    ("{{eq 1 \"a\"}}", "different kinds"),
    ("{{lt true false}}", "numbers or texts"),
    ("{{eq .Tags .Tags}}", "cannot be compared"),
    ("{{printf 5}}", "`printf` takes a text"),
];

#[test]
fn what_makes_no_sense_is_said() {
    for (template, expected) in REFUSED {
        check(template, Err(expected));
    }
}

#[test]
fn what_a_template_takes_is_limited() {
    let nested =
        |open: &str, close: &str, depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
    check(&format!("{{{{{}}}}}", nested("(", ")", 99)), Ok("1"));
    check(&format!("{{{{{}}}}}", nested("(", ")", 5_000)), Err("nested more than"));
    check(&nested("{{if 1}}", "{{end}}", 99), Ok("1"));
    check(&nested("{{if 1}}", "{{end}}", 4_000), Err("nested more than"));
    check(&nested("{{define \"x\"}}", "{{end}}", 3_000), Err("nested more than"));
    let cases = "{{else if .No}}".repeat(3_000);
    check(&format!("{{{{if .No}}}}a{cases}{{{{else}}}}b{{{{end}}}}"), Ok("b"));
    check("{{define \"r\"}}{{template \"r\" .}}{{end}}{{template \"r\" .}}", Err("nested more than"));
    check(&format!("{{{{.ID}}}}{}", "x".repeat(70_000)), Err("more than 65536 bytes"));
    check("{{range 1000000000000}}{{end}}", Err("steps"));
    let made = MADE_BYTES_MAX.to_string();
    check("{{$x := \"abcdefgh\"}}{{range 100}}{{$x = print $x $x}}{{end}}", Err(&made));
    check("{{$x := \"abcdefgh\"}}{{range 100}}{{$x = json $x}}{{end}}", Err(&made));
    check("{{$x := printf \"%50000d\" 1}}{{range 10000}}{{$x}}{{end}}", Err(&made));
    check("{{$x := printf \"%50000d\" 1}}{{range 10000}}{{$y := split $x \"\"}}{{end}}", Err(&made));
    check("{{pad \"x\" 9223372036854775807 0}}", Err(&made));
}

/// A template of rows with the fields `Name` and `Count`.
#[track_caller]
fn check_fields(format: &str, expected: Result<&str, &str>) {
    let known = [("Name", "NAME"), ("Count", "HOW MANY")];
    let format = Format::parse(Some(format)).expect("the template can be read");
    let Format::Template { template, .. } = &format else { panic!("{format:?}") };
    match (format.require_fields(&known), expected) {
        (Ok(()), Ok(expected)) => {
            assert_eq!(template.headings(&known).expect("there are headings"), expected)
        }
        (Err(error), Err(word)) => {
            let said = error.render(false);
            assert!(said.contains(word) && said.contains("there are Name, Count"), "{said}");
        }
        (found, _) => panic!("{template:?}: {found:?}"),
    }
}

#[test]
fn fields_of_rows_are_known_before_there_is_a_row() {
    check_fields("{{.Nmae}}", Err("no field `Nmae`"));
    check_fields("{{if .Name}}{{.Nmae}}{{end}}", Err("no field `Nmae`"));
    check_fields("{{if .Nmae}}{{end}}", Err("no field `Nmae`"));
    check_fields("{{range .Nmae}}{{end}}", Err("no field `Nmae`"));
    check_fields("{{with .Name}}{{else}}{{.Nmae}}{{end}}", Err("no field `Nmae`"));
    check_fields("{{with .Name}}{{$.Nmae}}{{end}}", Err("no field `Nmae`"));
    check_fields("{{with .Name}}{{(print $.Nmae).X}}{{end}}", Err("no field `Nmae`"));
    check_fields("{{printf \"%s\" (upper .Nmae)}}", Err("no field `Nmae`"));
    check_fields("{{with .Name}}{{.Anything}}{{end}}", Ok("NAME"));
    check_fields("{{range .Name}}{{.Anything}}{{end}}", Ok("NAME"));
}

#[test]
fn headings_are_those_of_fields_whatever_is_done_with_them() {
    check_fields("table {{.Name}}\\t{{.Count}}", Ok("NAME\tHOW MANY"));
    check_fields("table{{.Name | lower}}", Ok("NAME"));
    check_fields(
        "table {{json .Name}} {{upper .Count}} {{truncate .Name 2}} {{join .Name \",\"}}",
        Ok("NAME HOW MANY NAME NAME"),
    );
    check_fields("table {{if eq .Count 0}}none{{else}}{{.Count}}{{end}}", Ok("HOW MANY"));
    check_fields("table {{if lt .Count 3}}few{{else}}{{.Count}}{{end}}", Ok("HOW MANY"));
    check_fields("table {{printf \"%-6s\" .Name}}|", Ok("NAME  |"));
}
