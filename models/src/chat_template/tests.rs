use serde_json::json;

use super::*;

fn special() -> SpecialTokens {
    SpecialTokens { bos: Some(("<s>".into(), 1)), eos: Some(("</s>".into(), 2)), ..SpecialTokens::default() }
}

fn render(source: &str, messages: &[Message]) -> Result<String> {
    ChatTemplate::new(source.into(), &special())?.render(messages, None, false)
}

#[test]
fn blocks_are_trimmed_as_transformers_does() {
    let source =
        "{% for message in messages %}\n    {% if true %}\n{{ message.content }}\n    {% endif %}\n{% endfor %}\nend\n";
    assert_eq!(render(source, &[Message::new("user", "hi")]).unwrap(), "hi\nend");
}

#[test]
fn python_methods_and_json_work() {
    let source = "{{ messages[0]['content'].strip().split(',')[1] }}{{ {'a': [1, 'é<', none, true, 1.5]} | tojson }}";
    let text = render(source, &[Message::new("user", " x,y ")]).unwrap();
    assert_eq!(text, "y{\"a\": [1, \"é<\", null, true, 1.5]}");
    let indented = render("{{ {'a': [1], 'b': {}} | tojson(indent=2) }}", &[]).unwrap();
    assert_eq!(indented, "{\n  \"a\": [\n    1\n  ],\n  \"b\": {}\n}");
}

#[test]
fn keys_keep_the_order_of_the_row() {
    let call: Value = serde_json::from_str(r#"{"name": "f", "arguments": {"z": 1, "a": 2}}"#).unwrap();
    let mut message = Message::new("assistant", "");
    message.extra.insert("tool_calls".into(), json!([call]));
    let text = render("{{ messages[0].tool_calls[0] | tojson }}", &[message]).unwrap();
    assert_eq!(text, r#"{"name": "f", "arguments": {"z": 1, "a": 2}}"#);
}

#[test]
fn undefined_prints_nothing_but_has_no_attributes() {
    assert_eq!(
        render("[{{ nothing }}{% if nothing %}x{% endif %}{{ messages[0].nothing }}]", &[Message::new("user", "")]).unwrap(),
        "[]"
    );
    assert!(render("{{ nothing.more }}", &[]).is_err());
}

#[test]
fn a_template_may_refuse() {
    let error = render("{{ raise_exception('roles must alternate') }}", &[]).unwrap_err().to_string();
    assert!(error.contains("roles must alternate"), "{error}");
}

#[test]
fn a_template_that_does_not_compile_is_an_error_with_its_line() {
    let error = ChatTemplate::new("a\n{% if %}".into(), &special()).unwrap_err().to_string();
    assert!(error.contains("line 2"), "{error}");
}

#[test]
fn content_may_be_a_string_or_parts() {
    let source = "{% if messages[0].content is string %}s{% elif messages[0].content is sequence %}{{ messages[0].content[0].text }}{% endif %}";
    assert_eq!(render(source, &[Message::new("user", "x")]).unwrap(), "s");
    let parts = Message { role: "user".into(), content: json!([{"type": "text", "text": "part"}]), extra: Map::new() };
    assert_eq!(render(source, &[parts]).unwrap(), "part");
}

#[test]
fn the_date_has_the_format_asked_for() {
    let text = render("{{ strftime_now('%d %b %Y') }}", &[]).unwrap();
    assert_eq!(text.len(), "23 Nov 2026".len(), "{text}");
    let mut template = ChatTemplate::new("{{ strftime_now('%d %b %Y') }}".into(), &SpecialTokens::default()).unwrap();
    template.fix_now(951_782_400);
    assert_eq!(template.render(&[], None, false).unwrap(), "29 Feb 2000");
}

#[test]
fn globals_and_loop_controls_work() {
    let source = "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{% continue %}{% endif %}{{ m.content + eos_token }}{% endfor %}";
    let messages = [Message::new("user", "a"), Message::new("assistant", "b")];
    assert_eq!(render(source, &messages).unwrap(), "<s>b</s>");
}

#[test]
fn generation_blocks_give_spans() {
    let source = "{%- for m in messages -%}\n{%- if m.role == 'assistant' -%}\nA:\n{%- generation -%}\n  {{ m.content }}{{ eos_token }}\n{%- endgeneration -%}\n{%- else -%}\nU:{{ m.content }}\n{%- endif -%}\n{%- endfor -%}";
    let template = ChatTemplate::new(source.into(), &special()).unwrap();
    let messages = [
        Message::new("user", "q"),
        Message::new("assistant", "one"),
        Message::new("user", "r"),
        Message::new("assistant", "two"),
    ];
    assert_eq!(template.render(&messages, None, false).unwrap(), "U:qA:one</s>U:rA:two</s>");
    let marked = template.render_marked(&messages, None).unwrap().unwrap();
    let spans: Vec<&str> = marked.spans.iter().map(|span| &marked.text[span.clone()]).collect();
    assert_eq!(spans, ["one</s>", "two</s>"]);
}

#[test]
fn marks_inside_a_message_do_not_confuse() {
    let source = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}";
    let template = ChatTemplate::new(source.into(), &special()).unwrap();
    let messages = [Message::new("assistant", "a\u{fdd1}b")];
    assert_eq!(template.render(&messages, None, false).unwrap(), "a\u{fdd1}b");
    assert_eq!(template.render_marked(&messages, None).unwrap(), None);
}

#[test]
fn a_template_without_end_is_an_error() {
    let loops =
        "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}";
    let error = render(loops, &[Message::new("user", "a")]).unwrap_err();
    assert!(error.to_string().contains("does not come to an end"), "{error}");
    // Long conversations are far from it.
    let messages: Vec<Message> = (0..2000).map(|turn| Message::new("user", turn.to_string())).collect();
    render("{% for m in messages %}{% if m.role == 'user' %}{{ m.content | trim }}{% endif %}{% endfor %}", &messages)
        .unwrap();
}

#[test]
fn templates_of_a_folder_are_found() {
    let folder = tempfile::tempdir().unwrap();
    assert!(ChatTemplate::from_folder(folder.path(), &special()).unwrap().is_none());
    let config = json!({"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]});
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    assert_eq!(ChatTemplate::from_folder(folder.path(), &special()).unwrap().unwrap().source(), "d");
    std::fs::write(folder.path().join("chat_template.jinja"), "file").unwrap();
    assert_eq!(ChatTemplate::from_folder(folder.path(), &special()).unwrap().unwrap().source(), "file");
}

#[test]
fn generation_blocks_may_assign_to_a_namespace() {
    let source = "{% set ns = namespace(n=0) %}{% for m in messages %}{% generation %}{% set ns.n = ns.n + 1 %}{{ m.content }}{% endgeneration %}{% endfor %}{{ ns.n }}";
    let messages = [Message::new("assistant", "a"), Message::new("assistant", "b")];
    let template = ChatTemplate::new(source.into(), &special()).unwrap();
    assert_eq!(template.render(&messages, None, false).unwrap(), "ab2");
    assert_eq!(template.render_marked(&messages, None).unwrap().unwrap().spans, [0..1, 1..2]);
}

#[test]
fn none_is_no_sequence() {
    let source = "{% if tools is iterable and tools | length > 0 %}x{% endif %}{{ tools is sequence }}{{ tools }}";
    assert_eq!(render(source, &[]).unwrap(), "FalseNone");
}

#[test]
fn newlines_of_windows_are_newlines() {
    assert_eq!(render("{% if true %}\r\na\r\n{% endif %}\r\nb", &[]).unwrap(), "a\nb");
}
