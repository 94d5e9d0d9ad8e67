use serde_json::{Map, json};

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
fn keys_keep_their_order() {
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
fn a_template_can_raise_an_error() {
    let error = render("{{ raise_exception('roles must alternate') }}", &[]).unwrap_err().to_string();
    assert!(error.contains("roles must alternate"), "{error}");
}

#[test]
fn the_error_of_a_template_that_does_not_compile_has_a_line() {
    let error = ChatTemplate::new("a\n{% if %}".into(), &special()).unwrap_err().to_string();
    assert!(error.contains("line 2"), "{error}");
}

#[test]
fn content_can_be_a_string_or_a_list_of_parts() {
    let source = "{% if messages[0].content is string %}s{% elif messages[0].content is sequence %}{{ messages[0].content[0].text }}{% endif %}";
    assert_eq!(render(source, &[Message::new("user", "x")]).unwrap(), "s");
    let parts = Message { role: "user".into(), content: json!([{"type": "text", "text": "part"}]), extra: Map::new() };
    assert_eq!(render(source, &[parts]).unwrap(), "part");
}

#[test]
fn strftime_now_formats_the_date() {
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
fn a_message_that_contains_marks_is_not_marked() {
    let source = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}";
    let template = ChatTemplate::new(source.into(), &special()).unwrap();
    let messages = [Message::new("assistant", "a\u{fdd1}b")];
    assert_eq!(template.render(&messages, None, false).unwrap(), "a\u{fdd1}b");
    assert_eq!(template.render_marked(&messages, None).unwrap(), None);
}

#[test]
fn an_endless_template_is_an_error() {
    let loops =
        "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}";
    let error = render(loops, &[Message::new("user", "a")]).unwrap_err();
    assert!(error.to_string().contains("does not end"), "{error}");
    // Long conversations stay far below the limit.
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
fn generation_blocks_can_assign_to_a_namespace() {
    let source = "{% set ns = namespace(n=0) %}{% for m in messages %}{% generation %}{% set ns.n = ns.n + 1 %}{{ m.content }}{% endgeneration %}{% endfor %}{{ ns.n }}";
    let messages = [Message::new("assistant", "a"), Message::new("assistant", "b")];
    let template = ChatTemplate::new(source.into(), &special()).unwrap();
    assert_eq!(template.render(&messages, None, false).unwrap(), "ab2");
    assert_eq!(template.render_marked(&messages, None).unwrap().unwrap().spans, [0..1, 1..2]);
}

#[test]
fn none_is_not_a_sequence() {
    let source = "{% if tools is iterable and tools | length > 0 %}x{% endif %}{{ tools is sequence }}{{ tools }}";
    assert_eq!(render(source, &[]).unwrap(), "FalseNone");
}

#[test]
fn windows_newlines_are_converted() {
    assert_eq!(render("{% if true %}\r\na\r\n{% endif %}\r\nb", &[]).unwrap(), "a\nb");
}

fn tokens() -> SpecialTokens {
    let token = |text: &str, id| Some((text.to_owned(), id));
    SpecialTokens {
        bos: token("<|im_start|>", 1),
        eos: token("<|im_end|>", 2),
        pad: token("<|endoftext|>", 0),
        unk: token("<|endoftext|>", 0),
        ..SpecialTokens::default()
    }
}

fn messages(json: &str) -> Vec<Message> {
    let read = |value: &Value| {
        let mut map = value.as_object().unwrap().clone();
        let mut take = |key: &str| map.shift_remove(key).unwrap_or_default();
        let (role, content) = (take("role"), take("content"));
        Message { role: role.as_str().unwrap().to_owned(), content, extra: map }
    };
    crate::json::parse(json).unwrap().as_array().unwrap().iter().map(read).collect()
}

/// Written by `tests/scripts/make_jinja.py`.
#[test]
fn templates_are_rendered_as_in_transformers() {
    let fixture: Value = serde_json::from_str(include_str!("../../tests/fixtures/jinja.json")).unwrap();
    let messages = messages(fixture["messages"].as_str().unwrap());
    let mut wrong = Vec::new();
    for case in fixture["cases"].as_array().unwrap() {
        let text = |key: &str| case[key].as_str().unwrap().to_owned();
        let rendered =
            ChatTemplate::new(text("template"), &tokens()).and_then(|template| template.render(&messages, None, false));
        match rendered {
            Ok(rendered) if rendered == text("rendered") => {}
            other => wrong.push(format!("{}:\n  {other:?}\n  {:?}", text("name"), text("rendered"))),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn numbers_in_tool_arguments_are_printed_as_in_python() {
    let source =
        "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.function.arguments|tojson }}{% endfor %}{% endfor %}";
    let row = r#"[{"role":"assistant","content":"","tool_calls":[{"type":"function","function":{"name":"f","arguments":{"lr":1e-05,"big":1e16,"id":123456789012345678901234567890,"x":2.0,"neg":-0.0,"t":0.1,"e":1e22,"s":1.5e-7}}}]}]"#;
    let expected = r#"{"lr": 1e-05, "big": 1e+16, "id": 123456789012345678901234567890, "x": 2.0, "neg": -0.0, "t": 0.1, "e": 1e+22, "s": 1.5e-07}"#;
    assert_eq!(render(source, &messages(row)).unwrap(), expected);
}

#[test]
fn tojson_refuses_values_and_options_that_json_lacks() {
    for source in
        ["{{ nothing|tojson }}", "{{ 1|tojson(indent=1000) }}", "{{ 1|tojson(separators=[',']) }}", "{{ 1|tojson(x=1) }}"]
    {
        assert!(render(source, &[]).is_err(), "{source}");
    }
}

#[test]
fn a_conversation_with_tools_uses_the_template_for_tools() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let config = json!({"chat_template": [
        {"name": "default", "template": "plain"}, {"name": "tool_use", "template": "{{ tools|tojson }}"}, {"name": "rag", "template": "{% if"}]});
    write("tokenizer_config.json", &config.to_string());
    let tools = json!([{"name": "f"}]);
    let open = || ChatTemplate::from_folder(folder.path(), &special()).unwrap().unwrap();
    let template = open();
    assert_eq!(template.render(&[], None, false).unwrap(), "plain");
    assert_eq!(template.render(&[], Some(&tools), false).unwrap(), r#"[{"name": "f"}]"#);
    let names: Vec<&str> = template.sources().map(|(name, _)| name).collect();
    assert_eq!(names, ["default", "tool_use", "rag"]);
    // Files replace all templates of the configuration.
    write("chat_template.jinja", "file");
    assert_eq!(open().render(&[], Some(&tools), false).unwrap(), "file");
    std::fs::create_dir(folder.path().join("chat_templates")).unwrap();
    write("chat_templates/tool_use.jinja", "tools of a file");
    write("chat_templates/rag.jinja", "documents of a file");
    assert_eq!(open().sources().map(|(name, _)| name).collect::<Vec<_>>(), ["default", "rag", "tool_use"]);
    assert_eq!(open().render(&[], Some(&tools), false).unwrap(), "tools of a file");
    write("chat_templates/tool_use.jinja", "former");
    std::fs::create_dir(folder.path().join("additional_chat_templates")).unwrap();
    write("additional_chat_templates/tool_use.jinja", "tools of a file");
    assert_eq!(open().render(&[], Some(&tools), false).unwrap(), "tools of a file");
    assert_eq!(open().render(&[], None, false).unwrap(), "file");
    assert_eq!(open().source(), "file");
}

#[test]
fn templates_of_processors_are_those_of_a_tokenizer_without_templates() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let source = || ChatTemplate::from_folder(folder.path(), &special()).unwrap().map(|found| found.source().to_owned());
    write("tokenizer_config.json", r#"{"eos_token": "</s>"}"#);
    write("processor_config.json", r#"{"processor_class": "Gemma3Processor"}"#);
    assert_eq!(source(), None);
    write("chat_template.json", r#"{"chat_template": "chat_template.json"}"#);
    assert_eq!(source().as_deref(), Some("chat_template.json"));
    write("processor_config.json", r#"{"chat_template": "processor"}"#);
    assert_eq!(source().as_deref(), Some("processor"));
    write("tokenizer_config.json", r#"{"chat_template": "tokenizer"}"#);
    assert_eq!(source().as_deref(), Some("tokenizer"));
    write("chat_template.jinja", "jinja");
    assert_eq!(source().as_deref(), Some("jinja"));
}

#[test]
fn a_chat_template_of_another_form_is_refused() {
    for value in [json!(5), json!(["default"]), json!([{"template": "t"}]), json!({"default": null})] {
        for file in ["tokenizer_config.json", "chat_template.json"] {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join(file), json!({"chat_template": value}).to_string()).unwrap();
            let error = ChatTemplate::from_folder(folder.path(), &special()).unwrap_err().to_string();
            assert!(error.contains(file) && error.contains("`chat_template`: expected a template"), "{error}");
        }
    }
}

#[test]
fn the_error_without_a_default_template_lists_the_others() {
    let template =
        ChatTemplate::named(vec![("tool_use".into(), "t".into()), ("rag".into(), "r".into())], &special()).unwrap();
    assert_eq!(template.render(&[], Some(&json!([1])), false).unwrap(), "t");
    let error = template.render(&[], None, false).unwrap_err().to_string();
    assert!(error.contains("no template named `default`, only tool_use, rag"), "{error}");
}

#[test]
fn every_special_token_is_a_variable() {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({
        "chat_template": "{{ pad_token }}{{ unk_token }}{{ mask_token }}{{ image_token }}{{ eoi_token }}{{ additional_special_tokens[1] }}{{ cls_token is defined }}",
        "pad_token": "<pad>", "unk_token": {"content": "<unk>"}, "image_token": "<image>", "cls_token": null,
        "extra_special_tokens": {"eoi_token": "<eoi>"}, "additional_special_tokens": ["<a>", {"content": "<b>"}],
    });
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    std::fs::write(folder.path().join("special_tokens_map.json"), r#"{"mask_token": {"content": "<mask>"}}"#).unwrap();
    let template = ChatTemplate::from_folder(folder.path(), &SpecialTokens::default()).unwrap().unwrap();
    assert_eq!(template.render(&[], None, false).unwrap(), "<pad><unk><mask><image><eoi><b>False");
}

#[test]
fn reasoning_is_renamed_to_the_key_that_the_template_reads() {
    let row = |key: &str| messages(&format!(r#"[{{"role": "assistant", "content": "c", "{key}": "t"}}]"#));
    for (source, expected) in [
        ("{{ messages[0].reasoning_content }}{{ messages[0].content }}", "tc"),
        ("{{ messages[0]['thinking'] }}{{ messages[0].content }}", "tc"),
        ("{{ messages[0].get('reasoning') }}{{ messages[0].content }}", "tc"),
        ("{{ messages[0].thinking or messages[0].reasoning }}{{ messages[0].content }}", "tc"),
        ("{# m.thinking #}Reasoning: {{ 'high thinking' }}{{ messages[0].content }}", "Reasoning: high thinkingc"),
    ] {
        let template = ChatTemplate::new(source.into(), &special()).unwrap();
        assert_eq!(template.reads_reasoning(None).unwrap(), expected == "tc", "{source}");
        for key in REASONING {
            assert_eq!(template.render(&row(key), None, false).unwrap(), expected, "{source} {key}");
        }
    }
    let empty = messages(r#"[{"role": "assistant", "content": "c", "thinking": "t", "reasoning_content": ""}]"#);
    assert_eq!(render("{{ messages[0].reasoning_content }}", &empty).unwrap(), "t");
}

#[test]
fn the_start_of_an_answer_is_where_the_template_prints_it() {
    let start = |source: &str, content: &str| {
        let messages = [Message::new("user", "q"), Message::new("assistant", content)];
        let template = ChatTemplate::new(source.into(), &special()).unwrap();
        let conversation = template.conversation(&messages, None).unwrap();
        let text = conversation.render(2, false).unwrap();
        conversation.answer_start(2, &text).unwrap().map(|start| text[start..].to_owned())
    };
    let plain = "assistant is the assistant{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}";
    assert_eq!(start(plain, "assistant").as_deref(), Some("assistant"));
    assert_eq!(start(plain, " \n a").as_deref(), Some(" \n a"));
    assert_eq!(start(plain, "").as_deref(), Some(""));
    let trims = plain.replace("m.content", "m.content|trim");
    assert_eq!(start(&trims, "\n a\n").as_deref(), Some("a"));
    let forgets = plain.replace("m.content", "m.content.split('</think>')[-1].lstrip('\\n')");
    assert_eq!(start(&forgets, "<think>\nx</think>\n\na").as_deref(), Some("a"));
    let twice = format!("{{{{ messages[-1].content }}}}; {plain}");
    assert_eq!(start(&twice, "a; <think>b</think>").as_deref(), Some("a; <think>b</think>"));
    assert_eq!(start(&twice, "").as_deref(), Some(""));
    let changes = plain.replace("m.content", "m.content|length");
    assert_eq!(start(&changes, "abc"), None);
}

#[test]
fn a_long_conversation_is_not_taken_for_an_endless_template() {
    let long = Message::new("user", "a b ".repeat(4 << 20));
    let source = "{% for i in range(50) %}{% set c = messages[0].content|trim %}{% endfor %}{{ messages[0].content }}";
    assert_eq!(render(source, &[long]).unwrap().len(), 16 << 20);
}

#[test]
fn templates_that_build_or_compare_too_much_are_refused() {
    let repeated = |set: &str, then: &str| {
        format!(
            "{{% set x = namespace(a=['a'], b=['a']) %}}{{% for i in range(100) %}}{{% set {set} %}}{{% endfor %}}{then}"
        )
    };
    let doubled = "x.a = [x.a, x.a] %}{% set x.b = [x.b, x.b]";
    let long = "{% set x = 'é' * 4000000 %}{% set y = 'é' * 4000000 %}{% for i in range(100000) %}";
    let templates = [
        repeated("x.a = x.a + x.a", ""),
        repeated("x.a = x.a, x.a", "{{ x.a }}"),
        repeated("x.a = x.a|zip(x.a)|list", "{{ x.a }}"),
        repeated("x.a = [x.a, x.a]|sum(start=[])", ""),
        repeated("x.a = x.a|chain(x.a)", "{{ x.a|length }}"),
        repeated(doubled, "{{ x.a }}"),
        repeated(doubled, "{{ x.a|tojson }}"),
        repeated(doubled, "{{ x.a == x.b }}"),
        repeated("x.a = {'a': x.a, 'b': x.a}", ""),
        repeated("x.a = x.a ~ x.a", ""),
        "{% set x = namespace(a=[]) %}{% for i in range(100000) %}{% set x.a = {'a': x.a} %}{% endfor %}".to_owned(),
        "{% macro f(x, n) %}{{ f([x, x], n - 1) if n else x }}{% endmacro %}{{ f(1, 40) }}".to_owned(),
        "{{ [['a'] * 10000] * 10000 == [['a'] * 10000] * 10000 }}".to_owned(),
        "{% set x = 'a' * 1000000 %}{{ ([x] * 10000)|join }}".to_owned(),
        "{% set x = 'a' * 1000000 %}{{ ''.join([x] * 10000) }}".to_owned(),
        "{% set x = 'a' * 1000000 %}{{ x.replace('a', x) }}".to_owned(),
        "{% set x = 'a' * 1000000 %}{{ range(1000)|list|tojson(indent=x) }}".to_owned(),
        "{{ range(100000)|list|join('a' * 100000) }}".to_owned(),
        "{{ '%0999999999d' % 1 }}".to_owned(),
        "{{ '%.999999999f' % 1 }}".to_owned(),
        "{{ '{:999999999}'.format(1) }}".to_owned(),
        format!("{long}{{{{ x == y }}}}{{% endfor %}}"),
        format!("{long}{{{{ x[-1] }}}}{{% endfor %}}"),
        format!("{long}{{{{ x.find('b') }}}}{{% endfor %}}"),
        format!("{long}{{{{ x.strip() }}}}{{% endfor %}}"),
    ];
    for template in templates {
        let started = std::time::Instant::now();
        let error = render(&template, &[]).unwrap_err().to_string();
        let refused =
            ["builds too much", "nested deeper", "more than 10000", "indent"].iter().any(|word| error.contains(word));
        assert!(refused && started.elapsed().as_secs() < 10, "{template}: {error} after {:?}", started.elapsed());
    }
}

#[test]
fn tags_that_would_exhaust_the_stack_are_refused() {
    let nested = |open: &str, close: &str| format!("{{{{ {}a{} }}}}", open.repeat(20_000), close.repeat(20_000));
    for template in [
        nested("not ", ""),
        nested("-", ""),
        nested("[", "]"),
        nested("(a ~ ", ")"),
        nested("", " + a"),
        nested("", " or a"),
        nested("", "**a"),
        nested("", "()"),
        format!("{{{{ (a{}) }}}}", "()[0]".repeat(20_000)),
        nested("", "|trim"),
        format!("{{% if x %}}{}{{% endif %}}", "{% elif x %}a".repeat(15_000)),
    ] {
        assert!(ChatTemplate::new(template, &special()).is_err());
    }
}
