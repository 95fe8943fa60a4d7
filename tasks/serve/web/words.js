// What the page says, in English and Chinese. Where a value stands in a sentence, {name} marks its place.

export const WORDS = {
  en: {
    title: "Catena chat", conversations: "Conversations", new: "New chat", import: "Import", export: "Export",
    exportAll: "Export all", theme: "Theme: {name}", auto: "auto", light: "light", dark: "dark", language: "中文",
    key: "API key", keys: "Keyboard", settings: "Settings", menu: "Conversations and more", addModel: "Add a model",
    addModelShort: "+ Model", removeModel: "Remove {name}", model: "Model {n}", gone: "{name} (not served now)",
    prompt: "Message", placeholder: "Ask something", send: "Send", stop: "Stop", stopOne: "Stop this answer",
    hint: "Enter sends, Shift+Enter breaks the line, ? lists the keys", empty: "What shall we talk about?",
    emptyHint: "Add a model to compare answers side by side; the settings hold the system prompt and the tools.",
    you: "You", copy: "Copy", copied: "Copied",
    notCopied: "The browser refused the clipboard: select the text instead.",
    regenerate: "Again", edit: "Edit", ask: "Ask this model", notAsked: "Not asked yet.",
    version: "Answer {at} of {of}",
    earlier: "Earlier answer", later: "Later answer", reasoning: "Reasoning",
    waiting: "Waiting for the first token …",
    stopped: "stopped", cut: "cut off at the token limit", first: "first token {ms} ms", rate: "{rate} tokens/s",
    tokens: "{n} tokens", seconds: "{s} s", finished: "{name} answered: {text}", failed: "{name} failed: {text}",
    trace: "Sources", tracing: "Looking into the training documents …", traceHidden: "Sources hidden.",
    traceFound: "Spans found word for word in the {documents} training documents: {n}; the least likely first.",
    traceNone: "No longer span of this answer stands word for word in the {documents} training documents.",
    traceCount: "{words} words · {times} × · documents: {holders}", noLicence: "licence not known",
    traceNote: "Words that stand in a document do not prove that the model has them from there.",
    tool: "Tool call: {name}", result: "Result of {name}", resultHint: "Type what the tool answers",
    resume: "Send results", asks: "The model waits for the results of its tools.", noContent: "(empty answer)",
    editing: "Editing message {n}: what follows it will be replaced. Esc leaves it.", cancel: "Cancel", undo: "Undo",
    deleted: "“{name}” deleted.", replaced: "The message and what followed it were replaced.", delete: "Delete",
    deleteOne: "Delete “{name}”",
    untitled: "New chat", close: "Close", save: "Save", name: "Title", system: "System prompt",
    tools: "Tools (JSON list)",
    toolsHint: "OpenAI's form: a list of functions, each with a name, a description and a JSON schema of parameters",
    badTools: "The tools are not a JSON list of functions: {why}. Correct them in the settings.",
    temperature: "Temperature", top_p: "Top p", top_k: "Top k", min_p: "Min p", max_tokens: "Max tokens",
    seed: "Seed",
    presence_penalty: "Presence penalty", frequency_penalty: "Frequency penalty",
    repetition_penalty: "Repetition penalty", stopAt: "Stop strings, one a line",
    tool_choice: "Tool choice", default: "default",
    all: "All settings are optional: an empty field leaves the server's default.",
    context: "{n} tokens of context", outside: "{name}: between {least} and {most}",
    keyAsk: "This server wants an API key. It is kept until this tab is closed, and sent to this server only.",
    keyWrong: "The API key is missing or wrong.", enterKey: "Enter the key", again: "Try again",
    busy: "The server is busy; trying again in {s} s …", stillBusy: "The server is still busy.",
    unreachable: "The server does not answer. Start it again; what was said is kept here.",
    lost: "The connection was lost in the middle of the answer; what had arrived is kept.",
    tooLong: "The conversation is longer than the model's context: start a new chat, or lower max tokens.",
    noModel: "This model is not served any more: choose another above.",
    tooLarge: "The message is too large: shorten it.",
    refused: "The server refused {field}: {why}", serverError: "The server failed: {why}",
    full: "The browser's storage is full: this conversation is not kept. Export it, or delete others.",
    badFile: "{name} is no export of this page: {why}", imported: "{n} conversations imported.",
    wait: "An answer is being written: stop it first (Esc).",
    agent: "Use tools",
    agentHint: "The agent's loop answers with the server's tools; it asks before it writes or sends.",
    mayCall: "May {name} be called with this?", allow: "Allow", deny: "Deny",
    noRun: "The agent no longer waits for this.", agentEnd: "The agent ended: {why}.",
    agentBudget: "What one task of the agent may use", stepsMost: "Steps", tokensMost: "Tokens in all",
    secondsMost: "Seconds",
    keySend: "send", keyLine: "new line", keyStop: "stop the answers; leave an edit",
    keyLast: "in an empty message: edit the last one",
    keyFocus: "write a message", keyNew: "new chat", keyRegenerate: "answer again", keyCopy: "copy the last answer",
    keyTrace: "sources of the last answer", keySettings: "settings",
    keyMenu: "show or hide the conversations", keyTheme: "change the theme",
    keyHelp: "this list",
    keyOutside: "Single letters work outside of text fields.",
  },
  zh: {
    title: "Catena 对话", conversations: "对话列表", new: "新对话", import: "导入", export: "导出",
    exportAll: "全部导出", theme: "主题：{name}", auto: "自动", light: "浅色", dark: "深色", language: "English",
    key: "API 密钥", keys: "快捷键", settings: "设置", menu: "对话列表与更多", addModel: "添加模型",
    addModelShort: "+ 模型", removeModel: "移除 {name}", model: "模型 {n}", gone: "{name}（当前未提供）",
    prompt: "消息", placeholder: "请输入问题", send: "发送", stop: "停止", stopOne: "停止这个回答",
    hint: "Enter 发送，Shift+Enter 换行，? 查看快捷键", empty: "想聊点什么？",
    emptyHint: "添加模型可并排比较回答；系统提示词和工具在设置中填写。",
    you: "你", copy: "复制", copied: "已复制", notCopied: "浏览器拒绝访问剪贴板，请手动选择文本。",
    regenerate: "重新生成", edit: "编辑", ask: "询问此模型", notAsked: "尚未询问。", version: "第 {at} 个回答，共 {of} 个",
    earlier: "上一个回答", later: "下一个回答", reasoning: "思考过程", waiting: "正在等待第一个词元……",
    stopped: "已停止", cut: "达到词元上限而截断", first: "首个词元 {ms} 毫秒", rate: "每秒 {rate} 词元",
    tokens: "{n} 词元", seconds: "{s} 秒", finished: "{name} 的回答：{text}", failed: "{name} 出错：{text}",
    trace: "来源", tracing: "正在查找训练文档……", traceHidden: "已隐藏来源。",
    traceFound: "{n} 个片段与 {documents} 篇训练文档中的文字完全一致，最少见的在前。",
    traceNone: "在 {documents} 篇训练文档中，没有与此回答一致的较长片段。",
    traceCount: "{words} 个词（字），在 {holders} 篇文档中出现 {times} 次", noLicence: "许可证不明",
    traceNote: "文字出现在某篇文档中，并不证明模型是从那里学到的。",
    tool: "工具调用：{name}", result: "{name} 的结果", resultHint: "请输入工具返回的内容",
    resume: "提交结果", asks: "模型正在等待工具的结果。", noContent: "（空回答）",
    editing: "正在编辑第 {n} 条消息，其后的内容将被替换。按 Esc 取消。", cancel: "取消", undo: "撤销",
    deleted: "已删除“{name}”。", replaced: "已替换该消息及其后的内容。", delete: "删除", deleteOne: "删除“{name}”",
    untitled: "新对话", close: "关闭", save: "保存", name: "标题", system: "系统提示词", tools: "工具（JSON 列表）",
    toolsHint: "OpenAI 格式：函数列表，每个函数有名称、说明和参数的 JSON Schema",
    badTools: "工具不是函数的 JSON 列表：{why}。请在设置中修改。",
    temperature: "温度", top_p: "Top p", top_k: "Top k", min_p: "Min p", max_tokens: "最多词元数", seed: "随机种子",
    presence_penalty: "存在惩罚", frequency_penalty: "频率惩罚",
    repetition_penalty: "重复惩罚", stopAt: "停止字符串，每行一个",
    tool_choice: "工具选择", default: "默认", all: "所有设置均可留空：留空即采用服务器的默认值。",
    context: "上下文 {n} 词元", outside: "{name}：应在 {least} 与 {most} 之间",
    keyAsk: "此服务器需要 API 密钥。密钥只保存到关闭本标签页为止，且只发送给此服务器。",
    keyWrong: "API 密钥缺失或错误。", enterKey: "输入密钥", again: "重试",
    busy: "服务器繁忙，{s} 秒后重试……", stillBusy: "服务器仍然繁忙。",
    unreachable: "服务器没有响应。请重新启动服务器；已有的对话保存在这里。",
    lost: "回答中途连接断开；已收到的内容仍然保留。",
    tooLong: "对话超出了模型的上下文长度：请新建对话，或减小最多词元数。",
    noModel: "此模型已不再提供：请在上方另选一个。", tooLarge: "消息过大，请缩短。",
    refused: "服务器拒绝了 {field}：{why}", serverError: "服务器出错：{why}",
    full: "浏览器存储空间已满，本对话未保存。请导出本对话，或删除其他对话。",
    badFile: "{name} 不是本页面导出的文件：{why}", imported: "已导入 {n} 个对话。",
    wait: "正在生成回答，请先停止（Esc）。",
    agent: "使用工具", agentHint: "由智能体循环使用服务器的工具回答；写入或发送之前会先询问。",
    mayCall: "允许用以上参数调用 {name} 吗？", allow: "允许", deny: "拒绝",
    noRun: "智能体已不再等待这个答复。", agentEnd: "智能体已结束：{why}。",
    agentBudget: "智能体一次任务的上限", stepsMost: "步数", tokensMost: "词元总数", secondsMost: "秒数",
    keySend: "发送", keyLine: "换行", keyStop: "停止回答；取消编辑", keyLast: "消息为空时：编辑上一条",
    keyFocus: "输入消息", keyNew: "新对话", keyRegenerate: "重新生成", keyCopy: "复制最后的回答",
    keyTrace: "最后回答的来源", keySettings: "设置", keyMenu: "显示或隐藏对话列表", keyTheme: "切换主题", keyHelp: "本列表",
    keyOutside: "单字母快捷键在文本框之外有效。",
  },
};

let language = "en";

// The words of `name` in the page's language.
export function t(name, values = {}) {
  const sentence = WORDS[language][name];
  if (sentence === undefined) throw new Error(`no words for ${name}`);
  return sentence.replace(/\{(\w+)\}/g, (_, key) => String(values[key]));
}

// Speak `chosen`, or what the browser prefers.
export function speak(chosen) {
  language = chosen ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  return language;
}

// An error's line and remedy: {text, action: "key", "again", "settings" or null}.
export function remedy({ status, message, code, field }) {
  if (status === 401 || status === 403) return { text: t("keyWrong"), action: "key" };
  if (code === "agent") return { text: t("agentEnd", { why: message }), action: "again" };
  if (code === "no_run") return { text: t("noRun"), action: null };
  if (code === "lost") return { text: t("lost"), action: "again" };
  if (status === 0) return { text: t("unreachable"), action: "again" };
  if (code === "context_length_exceeded") return { text: `${t("tooLong")} (${message})`, action: "settings" };
  if (status === 404) return { text: t("noModel"), action: null };
  if (status === 413) return { text: t("tooLarge"), action: null };
  if (status === 429) return { text: t("stillBusy"), action: "again" };
  if (status > 0 && status < 500) {
    return { text: t("refused", { field: field ?? "", why: message }), action: "settings" };
  }
  return { text: t("serverError", { why: message || status }), action: "again" };
}
